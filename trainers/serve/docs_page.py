"""The page at /docs: Swagger UI, from files that come with a package instead of from another machine."""

from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

from trainers.serve.middleware import POLICY
from trainers.serve.page import swagger_policy

PACKAGE = "fastapi_offline"  # whose files they are
FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}


def docs_routes(title: str) -> APIRouter:
    """`/docs` and what it loads."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        _folder()
        root = request.scope.get("root_path", "")
        page = get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=title,
            swagger_js_url=f"{root}/docs/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/docs/swagger-ui.css",
            swagger_favicon_url=f"{root}/docs/favicon.png",
        )
        page.headers[POLICY] = swagger_policy(bytes(page.body).decode())
        return page

    @router.get("/docs/{name}")
    async def docs_file(name: str) -> FileResponse:
        if name not in FILES:
            raise HTTPException(404, f"expected one of {', '.join(FILES)}")
        return FileResponse(_folder() / name, media_type=FILES[name])

    return router


def _folder() -> Path:
    """Where the package has its files; 501 where it is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        needs = "this page needs fastapi-offline: pip install -e '.[serve]'"
        raise HTTPException(501, f"{needs}; /openapi.json describes the routes as well")
    return Path(spec.origin).parent / "static"
