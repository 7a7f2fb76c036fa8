"""Modules that the zygote imports once, so that every worker has them without reading a file.

Each costs every new worker page faults (30 modules: about 1 ms), so the list is short where later imports work.
"""

from __future__ import annotations

import importlib

COMMON = """
    _ssl abc array ast base64 bisect cmath collections collections.abc contextlib copy dataclasses datetime decimal
    enum fractions functools hashlib heapq inspect io itertools json keyword linecache math numbers operator
    pickle pprint random re signal statistics string struct textwrap time traceback types typing warnings weakref
""".split()  # noqa: SIM905  (quotes around each would hide the names)
"""What agents use most; and `_ssl`, whose library is not there later: without it `https:` is "unknown", not refused."""

WITHOUT_FILES = """
    argparse asyncio calendar cProfile codecs colorsys configparser copyreg csv difflib encodings.ascii
    encodings.latin_1 encodings.idna fnmatch gc getopt glob graphlib html html.parser ipaddress locale logging
    os.path pathlib platform posixpath pydoc queue quopri reprlib sched secrets shlex shutil stat stringprep symtable
    tempfile threading timeit tokenize tomllib unicodedata unittest urllib.parse uuid xml.dom.minidom
    xml.etree.ElementTree zipfile zlib zoneinfo
""".split()  # noqa: SIM905  (quotes around each would hide the names)
"""What they may use as well: loaded in advance on the rungs where a worker may be unable to read the library."""


def load(*, without_files: bool) -> None:
    """Import the modules; one that this build of Python lacks is left out."""
    for name in [*COMMON, *(WITHOUT_FILES if without_files else [])]:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
