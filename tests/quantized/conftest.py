from poison import poisoned_memory  # noqa: F401  (a fixture for all tests here)
