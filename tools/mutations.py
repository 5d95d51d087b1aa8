"""Changes the package in one place at a time, and records which test notices.

python tools/mutations.py run --count=40
python tools/mutations.py table
"""

import argparse
import ast
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAIRS = ("<", "<="), (">", ">="), ("==", "!="), ("+", "-"), ("*", "/"), ("and", "or")
OPERATORS = {"is": "is not", "not": "", **dict(PAIRS), **{b: a for a, b in PAIRS}}


def draw(repository: Path, seed: int) -> list[tuple[dict[str, Any], bytes]]:
    """Returns all changes of the package in random order, each with the new file."""
    found = []
    for path in sorted((repository / "rnnmnist").rglob("*.py")):
        old, file = path.read_bytes(), str(path.relative_to(repository))
        for begin, end, text in changes(old):
            new = old[:begin] + text.encode() + old[end:]
            row = old.count(b"\n", 0, begin)
            before, after = (one.split(b"\n")[row].decode() for one in (old, new))
            change = {"file": file, "line": row + 1, "before": before, "after": after}
            found.append((change, new))
    return random.Random(seed).sample(found, len(found))


def changes(source: bytes) -> Iterator[tuple[int, int, str]]:
    """Yields the begin, the end and the new text of operators, numbers and calls."""
    lines = [0, *(newline.end() for newline in re.finditer(b"\n", source))]
    messages = set[ast.AST]()
    node: Any
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise | ast.JoinedStr):
            messages.update(ast.walk(node))
        if node in messages or not hasattr(node, "lineno"):
            continue
        begin = lines[node.lineno - 1] + node.col_offset
        end = lines[node.end_lineno - 1] + node.end_col_offset
        match node:
            case (
                ast.UnaryOp(operand=operand)
                | ast.BinOp(right=operand)
                | ast.BoolOp(values=[_, operand, *_])
                | ast.Compare(comparators=[operand, *_])
            ):
                stop = lines[operand.lineno - 1] + operand.col_offset
                word = re.search(rb"([^\s(]+)[\s(]*$", source[begin:stop])
                if word and (old := word[1].decode()) in OPERATORS:
                    yield begin + word.start(), begin + word.end(1), OPERATORS[old]
            case ast.Constant(value=int() | float() as value):
                yield begin, end, str(value - 1)
            case ast.Expr(value=ast.Call()):
                yield begin, end, "pass"


def run(file: Path, done: int, count: int, seed: int, tests: str) -> None:
    """Tests the changes that are not in the file yet; `exit 0`: no test noticed one."""
    with tempfile.TemporaryDirectory() as clone, file.open("a") as results:
        subprocess.run(["git", "clone", "-q", ".", clone], check=True)
        test = f"cd {clone} && PYTHONPATH={clone} timeout 1800 {tests}"
        for change, new in draw(Path(clone), seed)[done:count]:
            (Path(clone) / change["file"]).write_bytes(new)
            own = "/".join(Path(change["file"]).parts[1:-1]) or "commands"
            status, output = subprocess.getstatusoutput(f"{test} tests/{own} && {test}")
            subprocess.run(["git", "-C", clone, "checkout", "-q", "."], check=True)
            failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
            change["noticed by"] = failed[1] if failed else f"exit {status}"
            print(json.dumps(change), file=results, flush=True)


def main() -> None:
    """Parses the command line, and runs tests or prints the table of their results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", default=f"{sys.executable} -m pytest -x -q")
    args = parser.parse_args()
    commit = subprocess.getoutput("git rev-parse --short HEAD")
    file = Path(f"checkpoints/mutations-{commit}-{args.seed}.jsonl")
    lines = file.read_text().splitlines() if file.exists() else []
    if args.command == "run":
        run(file, len(lines), args.count, args.seed, args.tests)
    else:
        for line in lines:
            print(*(str(one).strip() for one in json.loads(line).values()), sep=" | ")


if __name__ == "__main__":
    main()
