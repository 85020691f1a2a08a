"""The application: routes, and what each request passes on its way to them.

    service = Service(Options(name="opt-125m"))
    app = build(service)               # answers 503 until
    service.open(opt, engine)

From outside to inside: times and counts (``metrics``), the host (``hosts``), the key (``keys``), the body
(``bodies``), the route.
"""

from typing import Optional

from fastapi import FastAPI

from metaseq_plugin.generation.engine import Engine
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve import completions, metaseq_routes, models_routes
from metaseq_plugin.serve.bodies import BodyLimit
from metaseq_plugin.serve.errors import add_handlers
from metaseq_plugin.serve.hosts import HostCheck
from metaseq_plugin.serve.keys import KeyCheck, Keys
from metaseq_plugin.serve.metaseq_protocol import MetaseqRequest
from metaseq_plugin.serve.metrics import Measured
from metaseq_plugin.serve.openapi import describe
from metaseq_plugin.serve.options import Options
from metaseq_plugin.serve.page_files import page_routes
from metaseq_plugin.serve.protocol import CompletionRequest
from metaseq_plugin.serve.service import Service


def build(service: Service, only_at: Optional[str] = None) -> FastAPI:
    """The application of a service.

    Args:
        only_at: the name it listens at, where requests that name hosts of other machines are to be refused.
    """
    # FastAPI's pages of documentation load scripts from elsewhere; ours is a file of the repository.
    app = FastAPI(title="metaseq", docs_url=None, redoc_url=None, redirect_slashes=False)
    fields_of = {path: list(MetaseqRequest.model_fields) for path in metaseq_routes.PATHS}
    fields_of["/v1/completions"] = list(CompletionRequest.model_fields)
    add_handlers(app, fields_of)
    for routes in (completions.routes, metaseq_routes.routes, models_routes.routes):
        app.include_router(routes(service))
    page = page_routes()
    app.router.routes.extend(page)
    describe(app, needs_key=bool(service.options.keys))
    # The one that is added last is the outermost.
    app.add_middleware(BodyLimit)
    open_paths = ["/health", *(route.path for route in page)]
    app.add_middleware(KeyCheck, keys=Keys(service.options.keys), open_paths=open_paths)
    if only_at is not None:
        app.add_middleware(HostCheck, own=only_at)
    app.add_middleware(Measured, metrics=service.metrics)
    return app


def build_app(
    opt: Optional[OPT], engine: Optional[Engine], options: Optional[Options] = None
) -> FastAPI:
    """The application of a model that is there already; without one, it says that it is loading."""
    service = Service(options or Options())
    if opt is not None and engine is not None:
        service.open(opt, engine)
    return build(service)
