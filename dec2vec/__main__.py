"""`python -m dec2vec VERB ...`, also under `torchrun -m dec2vec` and `accelerate launch -m dec2vec`.

Files of the working folder cannot take the place of dec2vec's modules or of what they import.
"""

from __future__ import annotations

import sys

from dec2vec.own_packages import leave_working_folder

leave_working_folder()

from dec2vec.cli import main  # noqa: E402  # what it imports is found without the working folder

if __name__ == "__main__":
    sys.exit(main())
