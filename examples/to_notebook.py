"""Turn a script of cells (`# %%`, and `# %% [markdown]` for text) into a notebook beside it, or into a folder.

python examples/to_notebook.py [examples/from_file.py …] [--output-dir DIR]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

MARK, TEXT = "# %%", "# %% [markdown]"


def notebook(script: str) -> dict[str, Any]:
    """The cells of a script as a notebook, format 4.5."""
    cells = []
    for part in ("\n" + script).split("\n" + MARK)[1:]:
        head, _, body = part.partition("\n")
        is_text = MARK + head == TEXT
        lines = body.strip("\n").splitlines(keepends=True)
        if is_text:
            lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
        cell: dict[str, Any] = {"id": f"cell-{len(cells)}", "metadata": {}, "source": lines}
        if is_text:
            cells.append({"cell_type": "markdown", **cell})
        else:
            cells.append({"cell_type": "code", **cell, "execution_count": None, "outputs": []})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}


def beside() -> list[Path]:
    """The scripts that lie beside this one."""
    here = Path(__file__).resolve()
    return sorted(path for path in here.parent.glob("*.py") if path != here)


def main() -> None:
    """Convert the given scripts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("scripts", nargs="*", type=Path, help="scripts (default: all that lie beside this one)")
    parser.add_argument("--output-dir", type=Path, help="folder for the notebooks (default: beside each script)")
    given = parser.parse_args()
    for script in given.scripts or beside():
        path = (given.output_dir or script.parent) / f"{script.stem}.ipynb"
        path.write_text(json.dumps(notebook(script.read_text()), indent=1, ensure_ascii=False) + "\n")
        print(path)


if __name__ == "__main__":
    main()
