"""The size of the package and what is too large in it: ``make quality``.

Counts all lines, and lines of code: without blank lines, comments and the docstrings of modules,
classes and functions. Lists files above 400 lines and functions above 60 (docstring aside).
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "monai_vfx"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_SILENT = (
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
    *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
)


def docstring_lines(node: ast.AST) -> set[int]:
    """Return the numbers of the lines of a node's docstring; none where it has none."""
    body = getattr(node, "body", None)
    if not isinstance(node, _DOCUMENTED) or not body or ast.get_docstring(node) is None:
        return set()
    return set(range(body[0].lineno, body[0].end_lineno + 1))


def code_lines(text: str) -> int:
    """Count the lines of a module that are neither blank nor comment nor docstring.

    >>> code_lines('''"Docstring."
    ... # comment
    ...
    ... x = [1,
    ...      2]
    ... ''')
    2
    """
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _SILENT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        lines -= docstring_lines(node)
    return len(lines)


def long_functions(text: str) -> Iterator[tuple[str, int]]:
    """Yield the functions above the limit with their lines, decorators and docstring aside."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1 - len(docstring_lines(node))
            if lines > MAX_FUNCTION_LINES:
                yield node.name, lines


def too_large(package: Path = PACKAGE) -> list[str]:
    """List the files and functions above their limits, one a line."""
    found = []
    for path in sorted(package.rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(package).as_posix()
        if len(text.splitlines()) > MAX_FILE_LINES:
            found.append(f"{name}: {len(text.splitlines())} lines")
        found += [f"{name}: {function}, {lines} lines" for function, lines in long_functions(text)]
    return found


def main() -> None:
    """Print a row a room, the sum, and what is too large."""
    total, code = 0, 0
    print(f"{'room':<14}{'files':>7}{'lines':>8}{'code':>8}")
    for room in sorted(p for p in PACKAGE.iterdir() if p.suffix == ".py" or p.is_dir()):
        files = [room] if room.is_file() else sorted(room.rglob("*.py"))
        texts = [file.read_text(encoding="utf-8") for file in files]
        lines, own = sum(len(t.splitlines()) for t in texts), sum(code_lines(t) for t in texts)
        if files:
            print(f"{room.name:<14}{len(files):>7}{lines:>8}{own:>8}")
        total, code = total + lines, code + own
    print(f"{'all':<21}{total:>8}{code:>8}")
    for line in too_large():
        print(f"too large: {line}")


if __name__ == "__main__":
    main()
