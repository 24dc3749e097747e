"""Commands of lgc one after the other in one process of several: `command_worker.py COMMANDS.json`.

Each command is a list of words. The first process prints a JSON list: exit code, stdout and stderr of each.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

done = []
for words in json.loads(Path(sys.argv[1]).read_text()):
    sys.argv = words
    tool = importlib.import_module(f"lgc.tools.{words[0].removeprefix('lgc-')}")
    out, err, code = io.StringIO(), io.StringIO(), None
    with redirect_stdout(out), redirect_stderr(err):
        try:
            tool.main()
        except SystemExit as error:
            code = error.code
    done.append([code, out.getvalue(), err.getvalue()])
if os.environ["RANK"] == "0":
    print(json.dumps(done))
