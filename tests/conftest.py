import os

from hypothesis import HealthCheck, settings

# Runs repeat exactly, and no test depends on how fast the machine is.
settings.register_profile(
    "default",
    derandomize=True,
    deadline=None,
    max_examples=int(os.environ.get("ORT_TCONV_EXAMPLES", "60")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")
