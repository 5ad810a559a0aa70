"""Programs that compute the wrong thing and try to have it taken for right: f(2) should be 4, and is not."""

CHEATS = {
    "says so": """
print('{"kind": "passed"}')
print('passed')
def f(x): return 0
""",
    "exits well at once": """
import os
os._exit(0)
""",
    "exits well when asked": """
import os
def f(x): os._exit(0)
""",
    "raises SystemExit": """
def f(x): raise SystemExit(0)
""",
    "equals everything": """
class A:
    def __eq__(self, other): return True
def f(x): return A()
""",
    "a number that equals everything": """
class A(int):
    def __eq__(self, other): return True
    __hash__ = None
def f(x): return A()
""",
    "a text that equals everything": """
class A(str):
    def __eq__(self, other): return True
def f(x): return A()
""",
    "patches built-ins": """
import builtins
builtins.AssertionError = builtins.len = builtins.abs = lambda *a: 0
def f(x): return 0
""",
    "shadows built-ins": """
def all(x): return True
def abs(x): return 0
def int(x): return 4
set = sum = all
def f(x): return 0
""",
    "shadows a module": """
class math:
    def __getattr__(self, name): return lambda *a: True
math = math()
def f(x): return 0
""",
    "reads the test in memory": """
import gc, sys
def f(x):
    frame, texts = sys._getframe(), []
    while frame:
        texts += [str(v) for v in frame.f_locals.values()]
        frame = frame.f_back
    return 4 if any('== 4' in text for text in texts + [o for o in gc.get_objects() if isinstance(o, str)]) else 0
""",
    "reads the test in other processes": """
import os
def f(x):
    for pid in filter(str.isdecimal, os.listdir('/proc')):
        for name in ('fd/0', 'mem', 'environ', 'cmdline', 'task/' + pid + '/mem'):
            try:
                if b'== 4' in open(f'/proc/{pid}/{name}', 'rb').read(10**6): return 4
            except (OSError, ValueError): pass
    return 0
""",
    "reads the test in files": """
import os
def f(x):
    for folder, _, names in os.walk('/scratch'):
        for name in names:
            if '== 4' in open(os.path.join(folder, name), errors='replace').read(): return 4
    return 0
""",
    "rewrites the examiner": r"""
import os
for folder, _, names in os.walk('/scratch'):
    for name in names:
        open(os.path.join(folder, name), 'w').write('import os, sys\nprint({}, flush=True)\nos._exit(0)')
def f(x): return 0
""",
    "plants modules": """
for name in ('math', 'json', 'ast', 'helper'):
    open(f'/scratch/{name}.py', 'w').write('isclose = fabs = lambda *a: True')
def f(x): return 0
""",
    "answers in the examiner's stead": """
import os, json
for number in range(3, 100):
    for forged in ({'value': True, 'after': []}, {'modules': {}, 'values': {'f': True}}):
        text = json.dumps(forged).encode()
        try: os.write(number, len(text).to_bytes(4, 'big') + text)
        except OSError: pass
def f(x): return 0
""",
    "answers nonsense": r"""
import os
for number in range(3, 100):
    try: os.write(number, b'\xff' * 100)
    except OSError: pass
def f(x): return 0
""",
    "kills the examiner": """
import os
def f(x): os.kill(-1, 9)
""",
    "stops the examiner": """
import os, signal, time
def f(x):
    os.kill(os.getppid(), signal.SIGSTOP)
    time.sleep(60)
""",
}
