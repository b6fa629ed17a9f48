"""The service's page and its content security policy."""

import base64
import hashlib
import re
from pathlib import Path

PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")


def content_security_policy(page: str) -> str:
    """The page's own script and style, images from the reader's disk, requests to the service; nothing else."""
    return _policy(_hashes(page, "script"), _hashes(page, "style"))


def swagger_policy(page: str) -> str:
    """Likewise for Swagger UI, whose script and style sheet are files of the service, and which sets styles itself."""
    return _policy(f"'self' {_hashes(page, 'script')}", "'self' 'unsafe-inline'")


def _policy(scripts: str, styles: str) -> str:
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(page: str, tag: str) -> str:
    """Of what stands between the tags, as a policy names it."""
    texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
