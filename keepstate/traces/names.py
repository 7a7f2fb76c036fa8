"""What a block of the agent's code does with names, read from its syntax tree: never compiled, never executed.

    block = read_block(code)     # None: nobody can say

Names count as Python scopes them: what a function, a comprehension or a class body keeps to itself is no name of the
interpreter's. Within a block all branches count as run, from top to bottom, and bodies of functions after everything
else. A name that `exec`, `globals()` or a star import binds is not seen. Hostile code costs bounded time and memory.
"""

from __future__ import annotations

import ast
import functools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_CODE_CHARS = 60_000
"""Longer blocks are not read: 12,288 new tokens, the specification's limit of an answer, write about 50,000."""
_TOKEN = re.compile(r"\w+|[^\w\s]")
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_Computes = (
    ast.Call | ast.Await | ast.Yield | ast.YieldFrom | _Comprehension | ast.Lambda | ast.JoinedStr | ast.NamedExpr
)


@dataclass(frozen=True, slots=True)
class Definition:
    """A statement at the top of a block that does nothing but define names, from what is written there alone."""

    names: tuple[str, ...]
    text: str
    """Its source."""
    reads: frozenset[str] = frozenset()
    """Of an assignment: the names in its value."""
    verbatim: bool = False
    """A function or class: it defines the same again only where it stands word for word as before."""


@dataclass(frozen=True, slots=True)
class BlockNames:
    """The names of one block."""

    bound: frozenset[str]
    """Defined at its end."""
    deleted: frozenset[str]
    """Deleted at its end."""
    reads: frozenset[str]
    """Read, and bound nowhere above in the block itself: from an earlier block, a tool's, a builtin's."""
    imports: int
    """Import statements, wherever they stand."""
    definitions: tuple[Definition, ...]


def count_tokens(code: str) -> int:
    """Words and signs of code (`\\w+`, or one other character); comments and what strings hold among them."""
    return len(_TOKEN.findall(code))


def read_block(code: str) -> BlockNames | None:
    """The names of a block; None where it is no Python of this interpreter's, too long, or nested too deep."""
    if len(code) > MAX_CODE_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes: the agent's, not ours
            tree = ast.parse(code)
        top = _Scope()
        top.visit(tree.body)
        top.finish()
        definitions = tuple(_definitions(tree, code.split("\n")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    reads, deleted = frozenset(top.reads), frozenset(top.deleted - top.bound)
    return BlockNames(frozenset(top.bound), deleted, reads, top.imports, definitions)


@dataclass(slots=True)
class _Scope:
    """One scope while it is walked in the order in which it runs."""

    bound: set[str] = field(default_factory=set)
    own: set[str] = field(default_factory=set)
    """Ever bound here."""
    deleted: set[str] = field(default_factory=set)
    reads: set[str] = field(default_factory=set)
    """Read while not bound."""
    shared: set[str] = field(default_factory=set)
    """Declared `global` or `nonlocal`."""
    outside: set[str] = field(default_factory=set)
    """Bound here, and of the scope around it."""
    later: list[_Function] = field(default_factory=list)
    """Functions whose bodies have yet to be walked."""
    imports: int = 0

    def bind(self, name: str) -> None:
        if name in self.shared:
            self.outside.add(name)
        else:
            self.bound.add(name)
            self.own.add(name)

    def visit(self, node: Any) -> None:
        """Take in a node of the tree, or several of them."""
        kind: Any = type(node)
        if kind is list:
            for each in node:
                self.visit(each)
        elif (special := _SPECIAL.get(kind)) is not None:
            special(self, node)
        elif isinstance(node, ast.AST):
            for key in _fields(kind):
                self.visit(getattr(node, key, None))

    def finish(self) -> None:
        """Walk the bodies of functions."""
        for function in self.later:
            inner = _Scope()
            for part in ast.walk(function.args):
                if isinstance(part, ast.arg):
                    inner.bind(part.arg)
            inner.visit(function.body)
            inner.finish()
            self.imports += inner.imports
            for name in inner.outside:
                self.bind(name)
            self.reads |= inner.reads - inner.own - self.bound

    def name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.bind(node.id)
            return
        if node.id not in self.bound:
            self.reads.add(node.id)
        if isinstance(node.ctx, ast.Del):
            self.bound.discard(node.id)
            self.deleted.add(node.id)

    def annotated(self, node: ast.AnnAssign) -> None:
        self.visit([node.annotation, node.value])
        if node.value is not None or not isinstance(node.target, ast.Name):
            self.visit(node.target)

    def augmented(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name) and node.target.id not in self.bound:
            self.reads.add(node.target.id)
        self.visit([node.value, node.target])

    def function(self, node: _Function) -> None:
        arguments = node.args
        self.visit([arguments.defaults, arguments.kw_defaults])
        if not isinstance(node, ast.Lambda):
            annotated = (each.annotation for each in ast.walk(arguments) if isinstance(each, ast.arg))
            self.visit([node.decorator_list, *annotated, node.returns])
            self.bind(node.name)
        self.later.append(node)

    def ran(self, inner: _Scope) -> None:
        """Take in a scope that runs where it stands."""
        self.imports += inner.imports
        for name in inner.outside:
            self.bind(name)
        self.reads |= inner.reads - self.bound

    def class_(self, node: ast.ClassDef) -> None:
        self.visit([node.decorator_list, node.bases, node.keywords])
        inner = _Scope()
        inner.visit(node.body)
        self.ran(inner)
        self.later += inner.later  # methods do not see what the class binds
        self.bind(node.name)

    def comprehension(self, node: _Comprehension) -> None:
        self.visit(node.generators[0].iter)
        inner = _Scope(shared=_walrus(node))
        inner.visit(node.generators[0].target)
        for number, each in enumerate(node.generators):
            inner.visit([each.iter, each.target, each.ifs] if number else each.ifs)
        inner.visit([node.key, node.value] if isinstance(node, ast.DictComp) else node.elt)
        inner.finish()
        self.ran(inner)

    def branches(self, *branches: Any) -> None:
        """Each begins with the same names; afterwards those of all are bound."""
        before, after = self.bound, set(self.bound)
        for branch in branches:
            self.bound = set(before)
            self.visit(branch)
            after |= self.bound
        self.bound = after

    def if_(self, node: ast.If | ast.IfExp) -> None:
        self.visit(node.test)
        self.branches(node.body, node.orelse)

    def try_(self, node: ast.Try) -> None:
        self.branches([node.body, node.orelse], *node.handlers)
        self.visit(node.finalbody)

    def match(self, node: ast.Match) -> None:
        self.visit(node.subject)
        self.branches(*node.cases)

    def caught(self, node: ast.ExceptHandler) -> None:
        self.visit(node.type)
        if node.name:
            self.bind(node.name)
        self.visit(node.body)
        if node.name:
            self.bound.discard(node.name)  # Python deletes it

    def captured(self, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping) -> None:
        for key in node._fields:
            value = getattr(node, key)
            if isinstance(value, str):
                self.bind(value)
            else:
                self.visit(value)

    def imported(self, node: ast.Import | ast.ImportFrom) -> None:
        self.imports += 1
        for name in _imported(node):
            self.bind(name)

    def declared(self, node: ast.Global | ast.Nonlocal) -> None:
        self.shared.update(node.names)


_SPECIAL: dict[type[ast.AST], Callable[[_Scope, Any], None]] = {
    ast.Name: _Scope.name,
    ast.AnnAssign: _Scope.annotated,
    ast.AugAssign: _Scope.augmented,
    **dict.fromkeys((ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda), _Scope.function),
    ast.ClassDef: _Scope.class_,
    **dict.fromkeys((ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), _Scope.comprehension),
    **dict.fromkeys((ast.If, ast.IfExp), _Scope.if_),
    **dict.fromkeys((ast.Try, ast.TryStar), _Scope.try_),
    ast.Match: _Scope.match,
    ast.ExceptHandler: _Scope.caught,
    **dict.fromkeys((ast.MatchAs, ast.MatchStar, ast.MatchMapping), _Scope.captured),
    **dict.fromkeys((ast.Import, ast.ImportFrom), _Scope.imported),
    **dict.fromkeys((ast.Global, ast.Nonlocal), _Scope.declared),
}
_ORDER: dict[type[ast.AST], tuple[str, ...]] = {
    ast.Constant: (),
    ast.Assign: ("value", "targets"),
    ast.NamedExpr: ("value", "target"),
    **dict.fromkeys((ast.For, ast.AsyncFor), ("iter", "target", "body", "orelse")),
}
"""Fields of a node in the order in which they run, where that is not the order of the tree."""
_NO_NAMES = frozenset({"ctx", "op", "ops", "attr", "arg", "type_comment", "kind", "conversion", "lineno"})


@functools.cache
def _fields(kind: type[ast.AST]) -> tuple[str, ...]:
    """Fields in which names may stand, in the order in which they run."""
    return tuple(key for key in _ORDER.get(kind, kind._fields) if key not in _NO_NAMES)


def _walrus(node: _Comprehension) -> set[str]:
    """Names that a comprehension binds around it."""
    return {part.target.id for part in ast.walk(node) if isinstance(part, ast.NamedExpr)}


def _imported(node: ast.Import | ast.ImportFrom) -> tuple[str, ...]:
    """Names that an import binds; none of `*`."""
    if isinstance(node, ast.ImportFrom):
        return tuple(each.asname or each.name for each in node.names if each.name != "*")
    return tuple(each.asname or each.name.partition(".")[0] for each in node.names)


def _definitions(tree: ast.Module, lines: Sequence[str]) -> Iterator[Definition]:
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield Definition(_imported(node), _source(node, lines))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield Definition((node.name,), _source(node, lines), verbatim=True)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = tuple(target.id for target in targets if isinstance(target, ast.Name))
            parts = list(ast.walk(node.value))
            if len(names) == len(targets) and not any(isinstance(part, _Computes) for part in parts):
                reads = frozenset(part.id for part in parts if isinstance(part, ast.Name))
                yield Definition(names, _source(node, lines), reads)


def _source(node: ast.stmt, lines: Sequence[str]) -> str:
    """Source of a statement, with its decorators. Columns count bytes of UTF-8."""
    decorators: Sequence[ast.expr] = getattr(node, "decorator_list", ())
    first = min([node.lineno, *(each.lineno for each in decorators)]) - 1
    text = list(lines[first : node.end_lineno])
    text[-1] = text[-1].encode()[: node.end_col_offset].decode()
    text[0] = text[0].encode()[0 if decorators else node.col_offset :].decode()
    return "\n".join(text)
