"""Programs that make too many processes, or leave some behind."""

from __future__ import annotations

from tests.hostile import exits, stopped

PROGRAMS = [
    stopped(
        "fork bomb",
        """
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
        "cpu",
        "time",
        seconds=2.0,
    ),
    stopped(
        "fork bomb in new sessions",
        """
while True:
    os.setsid() if os.getsid(0) != os.getpid() else 0
    try:
        os.fork()
    except OSError:
        pass
""",
        "cpu",
        "time",
        seconds=2.0,
    ),
    stopped(
        "fork bomb deaf to signals",
        """
for number in range(1, 32):
    if number not in (9, 19):
        signal.signal(number, signal.SIG_IGN)
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
        "cpu",
        "time",
        seconds=2.0,
    ),
    exits(
        "thread bomb",
        """
import threading
made = 0
try:
    while made < 500:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        made += 1
except RuntimeError:
    print('refused after', made, flush=True)
print('ESCAPED' if made > 50 else 'held', flush=True)
os._exit(0)
""",
    ),
    exits(
        "more processes than allowed",
        """
made = 0
def more():
    global made
    if os.fork() == 0:
        time.sleep(60)
    made += 1
try:
    while made < 100:
        more()
except OSError:
    print('refused after', made)
print('ESCAPED' if made > 12 else 'held')
""",
    ),
    exits(
        "daemon that keeps stdout",
        """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
print('refused to wait')
""",
    ),
    exits(
        "daemon that closes everything",
        """
if os.fork() == 0:
    os.setsid()
    os.closerange(0, 100)
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        spin()
    os._exit(0)
print('refused to wait')
""",
    ),
    exits(
        "children of children outliving it",
        """
for generation in range(5):
    if os.fork():
        break
else:
    time.sleep(600)
print('refused to wait', flush=True)
os._exit(0)
""",
    ),
    stopped(
        "zombies without end",
        """
while True:
    try:
        os.fork() or os._exit(0)
    except OSError:
        time.sleep(0.01)
""",
        "cpu",
        "time",
        seconds=2.0,
    ),
]
