"""What jobs share: files made once, and the results of jobs that are done."""

from trainers.cache.cache import Cache, shared_cache
from trainers.cache.finished_jobs import remember

__all__ = ["Cache", "remember", "shared_cache"]
