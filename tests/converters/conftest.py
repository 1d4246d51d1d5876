from both_ways import both_ways, pytest_collection_modifyitems  # noqa: F401
from written_nodes import written_nodes  # noqa: F401  (a fixture for all tests here)
