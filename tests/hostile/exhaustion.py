"""Programs that want more than there is: time, memory, disk, output."""

from __future__ import annotations

from tests.hostile import exits, may_exit, stopped

TIME = [
    stopped(
        "busy loop",
        """
spin()
""",
        "cpu",
    ),
    stopped(
        "busy loops in many processes",
        """
for _ in range(4):
    if os.fork() == 0:
        spin()
spin()
""",
        "cpu",
    ),
    stopped(
        "busy loop deaf to SIGXCPU",
        """
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
spin()
""",
        "cpu",
    ),
    stopped(
        "sleep",
        """
time.sleep(10**6)
""",
        "time",
        seconds=2.0,
    ),
    stopped(
        "stopping itself",
        """
os.kill(os.getpid(), signal.SIGSTOP)
""",
        "time",
        seconds=2.0,
    ),
    stopped(
        "waiting for input that never comes",
        """
r, w = os.pipe()
os.read(r, 1)
""",
        "time",
        seconds=2.0,
    ),
    stopped(
        "time bomb in C",
        """
import re
re.match(r'(a+)+$$', 'a' * 40 + 'b')
""",
        "cpu",
    ),
    stopped(
        "a number without end",
        """
10 ** 10 ** 9
""",
        "cpu",
        "memory",
    ),
    stopped(
        "deaf to alarms",
        """
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
time.sleep(10**6)
""",
        "time",
        seconds=2.0,
    ),
]

MEMORY = [
    stopped(
        "a list that grows",
        """
held = []
while True:
    held.append(bytearray(10**6))
""",
        "memory",
    ),
    exits(
        "one huge block",
        """
try:
    held = bytearray(10**10)
    print('ESCAPED')
except MemoryError:
    print('refused')
""",
    ),
    stopped(
        "a little in each of many processes",
        """
for _ in range(8):
    if os.fork() == 0:
        break
held = os.urandom(25 * 10**6)
time.sleep(60)
""",
        "memory",
    ),
    stopped(
        "memory of a process whose first thread has ended",
        """
import threading
def hold():
    time.sleep(0.2)
    held = b'x' * (160 * 2**20)
    time.sleep(60)
threading.Thread(target=hold).start()
syscall(60 if os.uname().machine == 'x86_64' else 93, 0)
""",
        "memory",
    ),
    stopped(
        "a little in each of many processes whose first threads have ended",
        """
import threading
def hold():
    time.sleep(0.2)
    held = b'x' * (35 * 10**6)
    time.sleep(60)
for _ in range(5):
    if os.fork() == 0:
        threading.Thread(target=hold).start()
        syscall(60 if os.uname().machine == 'x86_64' else 93, 0)
os.wait()
""",
        "memory",
    ),
    stopped(
        "memory passed on from child to child",
        """
held = []
if os.fork():
    time.sleep(60)
while True:
    held.append(b'x' * 2**20)
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        time.sleep(0.001)
""",
        "memory",
    ),
    exits(
        "shared memory that no process shows",
        """
import mmap
must_fail('shared', mmap.mmap, -1, 10**7)
must_fail('validated', lambda: mmap.mmap(-1, 10**7, flags=0x03 | 0x20))
must_fail('zero', os.open, '/dev/zero', os.O_RDONLY)
block = mmap.mmap(-1, 10**7, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block.write(bytes(10**7))
for name in ('null', 'full', 'random', 'urandom'):
    device = os.open(f'/dev/{name}', os.O_RDONLY)
    must_fail(name, mmap.mmap, device, 2**20, mmap.MAP_SHARED, mmap.PROT_READ)
""",
    ),
    exits(
        "memory that belongs to no process",
        """
must_fail('memfd', os.memfd_create, 'x')
must_fail('shmget', lambda: syscall(29 if os.uname().machine == 'x86_64' else 194, 0, 10**7, 0o1600))
""",
    ),
    exits(
        "a scratch folder that overflows",
        """
def fill():
    for number in range(100):
        with open(f'f{number}', 'wb') as file:
            file.write(bytes(2**20))
must_fail('fill', fill)
""",
    ),
    exits(
        "one file beyond its limit",
        """
def grow():
    with open('big', 'wb') as file:
        file.truncate(2**40)
must_fail('grow', grow)
""",
    ),
    may_exit(
        "files without number",
        """
def litter():
    for number in range(10**6):
        os.mkdir(str(number))
must_fail('litter', litter)
""",
        "memory",
        "cpu",
    ),
    exits(
        "descriptors without number",
        """
def open_all():
    return [os.open('/dev/null', os.O_RDONLY) for _ in range(10**5)]
must_fail('open', open_all)
""",
    ),
    exits(
        "a core dump",
        """
resource = __import__('resource')
assert resource.getrlimit(resource.RLIMIT_CORE) == (1, 1)
if os.fork() == 0:
    os.abort()
status = os.wait()[1]
print('ESCAPED' if os.WCOREDUMP(status) else 'refused')
""",
    ),
]

OUTPUT = [
    stopped(
        "endless stdout",
        """
while True:
    print('a' * 1000)
""",
        "output",
    ),
    stopped(
        "endless stderr",
        """
while True:
    os.write(2, b'a' * 1000)
""",
        "output",
    ),
    stopped(
        "endless output of a daemon",
        """
if os.fork() == 0:
    os.setsid()
    while True:
        os.write(1, b'a' * 1000)
time.sleep(60)
""",
        "output",
    ),
]

PROGRAMS = [*TIME, *MEMORY, *OUTPUT]
