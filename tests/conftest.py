"""Before torch is imported: the suite runs in two processes, and two threads in each would only get in the way."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
