"""What tuneline makes itself: seeded rows in two languages and a tiny base model. The public face of the package.

Building the base needs torch and is imported by its module: `tasks.embedded.pretrain`.
"""

from tasks.embedded.budget import PretrainBudget
from tasks.embedded.corpus import probe_text
from tasks.embedded.key import EMBEDDED_MODEL, EMBEDDED_PREFIX, embedded_key
from tasks.embedded.language import Split
from tasks.embedded.rows import TASKS, task_rows

__all__ = [
    "EMBEDDED_MODEL",
    "EMBEDDED_PREFIX",
    "TASKS",
    "PretrainBudget",
    "Split",
    "embedded_key",
    "probe_text",
    "task_rows",
]
