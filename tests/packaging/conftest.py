import importlib
import sys

import pytest
from scripts import BENCHMARKS


@pytest.fixture(scope="module")
def modules(request):
    """The benchmarks' modules of the test file's MODULES, which find each other as those of a
    script do. Those that they import have to be among them, so that all are gone afterwards."""
    sys.path.insert(0, str(BENCHMARKS))
    yield {name: importlib.import_module(name) for name in request.module.MODULES}
    sys.path.remove(str(BENCHMARKS))
    for name in request.module.MODULES:
        sys.modules.pop(name, None)
