"""Classifier and detector behind HTTP; needs the extra `serve`."""

from trainers.serve.app import create_app
from trainers.serve.limits import Limits

__all__ = ["Limits", "create_app"]
