"""A sandbox for generated programs: `run` runs one, `try_program` examines one; docs/sandbox.md says what it withstands.

    from exptilt import sandbox
    finished = sandbox.run("print(6 * 7)", limits=sandbox.Limits(seconds=2))
    finished.stdout, finished.returncode, finished.stopped

Each run is a process tree of its own in new namespaces of the Linux kernel, without network, with a read-only view of
Python and the system libraries and one scratch folder in memory; limited in time, CPU, memory, processes and output; and
killed as a whole. Where the kernel does not permit that, `run` raises SandboxError; it never runs a program without the
walls unless it is told to, by `isolation="none"`.
"""

from exptilt.errors import SandboxError
from exptilt.sandbox.launch import choose_isolation
from exptilt.sandbox.run import Finished, Limits, run
from exptilt.sandbox.trial import InputOutput, Outcome, Task, try_program

__all__ = ["Finished", "InputOutput", "Limits", "Outcome", "SandboxError", "Task", "choose_isolation", "run", "try_program"]
