"""The service on a cluster that runs Ray: `serve run app.ray_serve:application` (pip install '.[ray]').

Each replica is the whole service, with its own queue and batches. Serve's proxies speak HTTP and choose a replica, and
its controller says how many there are, by the requests under way; a Serve config file overrides the numbers below.
Settings are the environment variables of the nodes, as without Ray.
"""

import ray
from fastapi import FastAPI
from ray import serve

from app.logs import configure_logging
from app.main import create_app
from app.settings import Settings

NUM_CPUS = 2  # of a replica, which works on as many pictures at a time
# Chosen, not tuned: at the 170 photos a second of two cores, the last of 16 waits 0.1 s.
TARGET_REQUESTS = 16
# More than WARDROBE_MAX_QUEUE_IMAGES: it is the service that turns away, with a Retry-After.
MAX_REQUESTS = 512


def create_replica() -> FastAPI:
    """The service of one replica, called where it runs.

    Serve's proxies are what others reach: without keys it starts only if it is told to, as in a container. Items are
    off unless asked for, because each node would have its own.
    """
    settings = Settings()
    num_cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    given = {
        "num_threads": settings.num_threads or max(1, int(num_cpus)),
        "published_host": settings.published_host or "0.0.0.0",  # noqa: S104 nothing is bound
        "storage": "off" if settings.storage == "auto" else settings.storage,
    }
    settings = Settings(**settings.model_dump() | given)
    configure_logging(settings.log_level, with_process=True)
    return create_app(settings, one_of_several=True)


application = serve.deployment(
    name="wardrobe",
    ray_actor_options={"num_cpus": NUM_CPUS},
    max_ongoing_requests=MAX_REQUESTS,
    autoscaling_config={"min_replicas": 2, "max_replicas": 20, "target_ongoing_requests": TARGET_REQUESTS},
    graceful_shutdown_timeout_s=Settings.model_fields["shutdown_timeout_seconds"].default,
)(serve.ingress(create_replica)()).bind()
