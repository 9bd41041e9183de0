"""The rules of the house that ruff, mypy and import-linter do not know: each takes a module and lists its breaches.

A breach is ``path:line: what``. ``test_rules.py`` shows every rule a piece of code that breaks it, then all of hone.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.house.source_tree import FunctionNode, Module, dotted_name, functions, literal_all

MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60

# Longer functions, by qualified name, each with its reason. One that has become short enough must leave this list.
LONGER_FUNCTIONS: dict[str, str] = {
    "hone.engine.loop.train": "the loop reads top to bottom in 30 lines; the rest documents its twelve arguments",
    "hone.recipe.sft.train_sft": "the whole job reads top to bottom in 60 lines; the rest documents its arguments",
}

# Modules that write files by themselves, not through hone.files (temporary name, fsync, rename), with the reason.
OWN_WRITES: dict[str, str] = {
    "hone.files": "is where whole-or-absent writes are made",
    "hone.data.audit.spill": "scratch numbers in a temporary folder, which nobody else reads",
    "hone.data.row_files": "rows are written one by one; it does for them what hone.files does for whole contents",
    "hone.registry.recorder": "appends lines to metrics.jsonl and log.txt, which readers follow while a run goes on",
}

FORBIDDEN_MODULE_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"}


def files_are_short(module: Module) -> Iterator[str]:
    """A file has at most MAX_FILE_LINES lines."""
    lines = len(module.text.splitlines())
    if lines > MAX_FILE_LINES:
        yield f"{module.at(module.tree)}: {lines} lines, at most {MAX_FILE_LINES}"


def functions_are_short(module: Module) -> Iterator[str]:
    """A function has at most MAX_FUNCTION_LINES lines, or a reason in LONGER_FUNCTIONS."""
    for name, node in functions(module.tree):
        lines = function_lines(node)
        if lines > MAX_FUNCTION_LINES and f"{module.name}.{name}" not in LONGER_FUNCTIONS:
            yield f"{module.at(node)}: {name} has {lines} lines, at most {MAX_FUNCTION_LINES}"


def function_lines(node: FunctionNode) -> int:
    """Lines of a function from ``def`` to its end, its docstring included."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def names_say_what(module: Module) -> Iterator[str]:
    """No module is named for being a drawer."""
    for part in module.name.split("."):
        if FORBIDDEN_MODULE_NAMES & set(part.split("_")):
            yield f"{module.at(module.tree)}: '{part}' says nothing about what is inside"


def annotations_are_postponed(module: Module) -> Iterator[str]:
    """Every module begins with ``from __future__ import annotations``."""
    wanted = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in module.tree.body)
    if not wanted and len(module.tree.body) > 1:
        yield f"{module.at(module.tree)}: from __future__ import annotations is missing"


def init_holds_no_logic(module: Module) -> Iterator[str]:
    """An ``__init__`` has a docstring, re-exports from hone, ``__all__`` and, at the top, ``__version__``."""
    if not module.is_package:
        return
    for index, node in enumerate(module.tree.body):
        docstring = index == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        reexport = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in {"__future__", "hone"}
        named = isinstance(node, ast.Assign) and {dotted_name(t) for t in node.targets} <= {"__all__", "__version__"}
        if not (docstring or reexport or named):
            yield f"{module.at(node)}: an __init__ only re-exports from hone"


def public_names_are_declared(module: Module) -> Iterator[str]:
    """``__all__`` names everything public that the module defines (but migrations), and nothing that is not there."""
    declared = literal_all(module)
    if declared is None:
        if not (module.is_package and len(module.tree.body) <= 1):
            yield f"{module.at(module.tree)}: no __all__ written out as a list of names"
        return
    if len(set(declared)) != len(declared):
        yield f"{module.at(module.tree)}: a name stands twice in __all__"
    present = _top_level_names(module.tree)
    for name in declared:
        if name not in present:
            yield f"{module.at(module.tree)}: __all__ names {name}, which the module does not define"
    for node in module.tree.body:
        if isinstance(node, FunctionNode | ast.ClassDef):
            private = re.match(r"_|m\d{3}_", node.name)
            if not private and node.name not in declared:
                yield f"{module.at(node)}: {node.name} is public by its name, and not in __all__"


def _top_level_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, FunctionNode | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {leaf.id for target in node.targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)}
        elif isinstance(node, ast.AnnAssign):
            names.add(dotted_name(node.target))
        elif isinstance(node, ast.TypeAlias if hasattr(ast, "TypeAlias") else ()):
            names.add(dotted_name(node.name))
    return names


def failures_do_not_vanish(module: Module) -> Iterator[str]:
    """No bare or blanket ``except`` that swallows, and no ``suppress(Exception)``."""
    blanket = {"Exception", "BaseException"}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            broad = any(kind is None or dotted_name(kind) in blanket for kind in caught)
            if broad and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
                yield f"{module.at(node)}: name the exceptions that are expected here, or raise again"
        elif isinstance(node, ast.Call):
            suppresses = dotted_name(node.func).split(".")[-1] == "suppress"
            if suppresses and any(dotted_name(argument) in blanket for argument in node.args):
                yield f"{module.at(node)}: suppress names the exceptions that are expected"


def nothing_runs_foreign_code(module: Module) -> Iterator[str]:
    """Weights are safetensors: no pickle in any form, no code from a model's repository, no eval of text."""
    modules = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    calls = {"torch.load", "torch.save", "eval", "exec", "__import__", "yaml.load", "yaml.unsafe_load"}
    for node in ast.walk(module.tree):
        imported = []
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = [node.module or ""]
        if {name.split(".")[0] for name in imported} & modules:
            yield f"{module.at(node)}: {', '.join(imported)} can run code that a file carries"
        if isinstance(node, ast.Call):
            safe_yaml = dotted_name(node.func) == "yaml.load" and "Loader" in {word.arg for word in node.keywords}
            method = isinstance(node.func, ast.Attribute) and "." not in dotted_name(node.func)  # model.to(x).eval()
            if dotted_name(node.func) in calls and not safe_yaml and not method:
                yield f"{module.at(node)}: {dotted_name(node.func)} can run code that a file carries"
            for word in node.keywords:
                trusted = isinstance(word.value, ast.Constant) and word.value.value is False
                if word.arg in {"trust_remote_code", "allow_pickle"} and not trusted:
                    yield f"{module.at(node)}: {word.arg} may only be False"


def nothing_is_left_open(module: Module) -> Iterator[str]:
    """No mark of unfinished work, in code or in words."""
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK|raise NotImplementedError)\b")
    for number, line in enumerate(module.text.splitlines(), 1):
        if found := marks.search(line):
            yield f"{module.at(module.tree).rsplit(':', 1)[0]}:{number}: {found[0]}"


def state_is_visible(module: Module) -> Iterator[str]:
    """No ``global`` and no ``nonlocal``: state is an argument, a return value or an object's field."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global | ast.Nonlocal):
            yield f"{module.at(node)}: {type(node).__name__.lower()} {', '.join(node.names)}"


def libraries_stay_as_they_are(module: Module) -> Iterator[str]:
    """Nothing assigns to an attribute of an imported module (``torch.backends`` holds settings, and may be set)."""
    imported = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    for node in ast.walk(module.tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            name = dotted_name(target) if isinstance(target, ast.Attribute) else ""
            if name.split(".")[0] in imported and not name.startswith("torch.backends."):
                yield f"{module.at(node)}: assigns to {name}, which belongs to another module"


def text_is_utf8(module: Module) -> Iterator[str]:
    """Files are opened with an encoding (or as bytes), and JSON keeps its letters."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        name, words = dotted_name(node.func), {word.arg for word in node.keywords}
        if name in {"json.dumps", "json.dump"} and "ensure_ascii" not in words and None not in words:
            yield f"{module.at(node)}: {name} without ensure_ascii=False"
        reads_text = name.split(".")[-1] in {"read_text", "write_text"} or _opens_text(node)
        positional = name.split(".")[-1] == "read_text" and node.args
        if reads_text and not positional and "encoding" not in words:
            yield f"{module.at(node)}: {name} without encoding"


def writes_are_whole(module: Module) -> Iterator[str]:
    """Files are written through hone.files, so that a reader never meets half of one."""
    if module.name in OWN_WRITES:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            last = dotted_name(node.func).split(".")[-1]
            if last in {"write_text", "write_bytes"} or (set(_open_mode(node)) & set("wxa+")):
                yield f"{module.at(node)}: writes by itself; use hone.files, or give the reason in OWN_WRITES"


def _open_mode(node: ast.Call) -> str:
    """The mode of a call of ``open`` or of a path's ``open``; empty where it is neither, or computed."""
    name = dotted_name(node.func)
    if name.split(".")[-1] != "open" or name in {"webbrowser.open", "os.open"}:
        return ""
    # A path's open takes the mode first; the others take the path before it.
    takes_path = isinstance(node.func, ast.Name) or name in {"io.open", "gzip.open"}
    given = [word.value for word in node.keywords if word.arg == "mode"] or node.args[takes_path:][:1]
    if not given:
        return "r"
    return str(given[0].value) if isinstance(given[0], ast.Constant) else ""


def _opens_text(node: ast.Call) -> bool:
    mode = _open_mode(node)
    return bool(mode) and "b" not in mode


# Calls that make a value and touch nothing outside; a name that begins with a capital is taken for a class.
_QUIET_CALLS = {
    "compile", "date", "datetime", "declare_job_tables", "declare_ranking_tables", "dict", "field",
    "float", "frozenset", "fromkeys", "getLogger", "int", "items",
    "join", "keys", "len", "list", "mapped_column", "max", "min", "namedtuple", "partial", "range", "relationship",
    "replace", "set", "sorted", "split", "splitlines", "str", "strip", "sum", "timedelta", "tuple", "values", "zip",
}  # fmt: skip
# Typer's way of building the command from its parts.
_WIRING_CALLS = {"add_typer", "command", "callback"}


def importing_does_nothing(module: Module) -> Iterator[str]:
    """At the top level stand definitions and values; no loops, no files, no calls that work."""
    for node in module.tree.body:
        if isinstance(node, ast.For | ast.While | ast.With | ast.Try | ast.Delete | ast.AugAssign):
            yield f"{module.at(node)}: {type(node).__name__.lower()} at the top level"
        elif isinstance(node, ast.If) and not _is_guard(node):
            yield f"{module.at(node)}: if at the top level"
        elif isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign) and node.value is not None:
            for call in _calls_now(node.value):
                if not _is_quiet(call, module):
                    yield f"{module.at(call)}: {_called(call) or 'a computed function'}() is called while importing"


def _is_quiet(call: ast.Call, module: Module) -> bool:
    """Whether a call only makes a value: a quiet one, or a function of this module that makes only quiet ones."""
    last = _called(call)
    wiring = module.name.startswith("hone.cli") and last in _WIRING_CALLS
    if last in _QUIET_CALLS or wiring or last[:1].isupper():
        return True
    local = [node for node in module.tree.body if isinstance(node, FunctionNode) and node.name == last]
    inner = [other for node in local for statement in node.body for other in _calls_now(statement)]
    return bool(local) and all(_called(other) != last and _is_quiet(other, module) for other in inner)


def _is_guard(node: ast.If) -> bool:
    """Whether an ``if`` asks for the type checker, the platform, or who runs the module."""
    asked = {dotted_name(leaf) for leaf in ast.walk(node.test)}
    guards = {"TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__", "os.name", "sys.platform", "sys.version_info"}
    return bool(asked & guards)


def _calls_now(node: ast.AST) -> Iterator[ast.Call]:
    """Calls that run when the code is: those inside a lambda or a function made there do not."""
    if isinstance(node, ast.Lambda | FunctionNode):
        return
    if isinstance(node, ast.Call):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _calls_now(child)


def _called(call: ast.Call) -> str:
    """The last name of what is called, also through ``app.command("x")(function)`` and ``"a b".split()``."""
    if isinstance(call.func, ast.Call):
        return _called(call.func)
    return call.func.attr if isinstance(call.func, ast.Attribute) else dotted_name(call.func)


def class_bases(module: Module) -> Iterator[tuple[str, list[str]]]:
    """Every class of a module with the last names of its bases."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            yield node.name, [dotted_name(base).split(".")[-1] for base in node.bases]


RULES = (
    annotations_are_postponed,
    failures_do_not_vanish,
    files_are_short,
    functions_are_short,
    importing_does_nothing,
    init_holds_no_logic,
    libraries_stay_as_they_are,
    names_say_what,
    nothing_is_left_open,
    nothing_runs_foreign_code,
    public_names_are_declared,
    state_is_visible,
    text_is_utf8,
    writes_are_whole,
)
