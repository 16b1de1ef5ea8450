"""``fedmed serve``: guarded answers for people on a page, and for programs that speak OpenAI's protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_EXTRA = "serve"
_NEEDED = ("fastapi", "uvicorn", "httpx", "prometheus_client")
_NEEDED_FOR_PAGE = "gradio"
_WORKERS = 16  # questions at a time that a server behind is asked


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="serve", epilog="Example: fedmed serve --port 8000")(serve)


def serve(
    runs: Annotated[
        list[str] | None,
        typer.Option("--run", help="Serve only this run, by name or path (repeatable). Default: every finished run."),
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="Serve the base model alone, without any adapter.")] = False,
    upstream: Annotated[
        str | None,
        typer.Option("--upstream", metavar="URL", help="Put the guardrails in front of this OpenAI-compatible server."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen at; 0: any free one.")] = 8000,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="FILE", help="Who may ask: 'name key' lines; needed off loopback."),
    ] = None,
    rate: Annotated[int, typer.Option("--rate", min=0, help="Questions a minute for each key; 0: no limit.")] = 300,
    queue: Annotated[int, typer.Option("--queue", min=1, help="Questions that may wait; more get a 429.")] = 64,
    seconds: Annotated[float, typer.Option("--seconds", min=1.0, help="Longest time for one answer.")] = 300.0,
    audit: Annotated[Path, typer.Option("--audit", metavar="FILE", help="Gets a JSON line for each answer.")] = Path(
        "logs/serve.audit.jsonl"
    ),
    audit_text: Annotated[
        bool, typer.Option("--audit-text", help="Also keep the questions and answers themselves in the audit.")
    ] = False,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Also serve the page that people ask on.")] = True,
    watch: Annotated[
        list[Path] | None,
        typer.Option("--watch", metavar="DIR", help="Also draw the runs in this folder on the page (repeatable)."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting (repeatable).")
    ] = None,
) -> None:
    """Serve guarded answers: on a page at /, and at /v1/chat/completions to any OpenAI client.

    Nothing leaves this machine unless --upstream is given. Research and educational use only, not medical advice.
    """
    from fedmed.errors import ServeError
    from fedmed.utils.console import err
    from fedmed.utils.extras import require
    from fedmed.utils.runs import find_run

    if sum((bool(runs), base, upstream is not None)) > 1:
        raise typer.BadParameter("give --run, --base or --upstream, not several of them")
    for package in (*_NEEDED, _NEEDED_FOR_PAGE) if page else _NEEDED:
        require(package, _EXTRA)
    from fedmed.serving.answers import Answerer
    from fedmed.serving.api import LOCAL_HOSTS, ServeSettings, create_app
    from fedmed.serving.audit import AnswerAudit
    from fedmed.serving.limits import ApiKeys
    from fedmed.serving.models import RunModels
    from fedmed.serving.queue import BATCH
    from fedmed.serving.server import LOOPBACK, open_port
    from fedmed.serving.server import serve as serve_app

    if keys is None and host not in LOOPBACK:
        raise ServeError(f"anybody who reaches {host} could ask", "give --keys FILE, or leave out --host")
    known = None if keys is None else ApiKeys.read(keys)
    answerer: Answerer
    if upstream is not None:
        from fedmed.config.load import load_config
        from fedmed.serving.upstream import Upstream

        answerer = Upstream(upstream, load_config(None, (), overrides or ()), seconds=seconds)
    else:
        folders = [find_run(name) for name in runs or ()]
        answerer = RunModels(only=folders, base_only=base, overrides=overrides or ())
    records = AnswerAudit(audit, with_text=audit_text)
    listening = open_port(host, port)  # taken before the model is loaded, so that a wrong port is known at once
    with listening:
        answerer.load()
        settings = ServeSettings(
            audit=records,
            keys=known,
            hosts=LOCAL_HOSTS if known is None else (),
            rate=rate,
            queue_size=queue,
            batch=BATCH if upstream is None else 1,
            workers=1 if upstream is None else _WORKERS,
            answer_seconds=seconds,
            drain_seconds=2 * seconds,
        )
        app = create_app(answerer, settings)
        at_end = None
        if page:
            from fedmed.demo.mount import mount_page
            from fedmed.utils.runs import DEFAULT_ROOT

            at_end = mount_page(app, [DEFAULT_ROOT, *(watch or ())])
        shown = f"[{host}]" if ":" in host else host
        where = f"http://{shown}:{listening.getsockname()[1]}"
        err.print(f"serving {', '.join(answerer.models()[:5])} at {where}/v1", markup=False, highlight=False)
        if page:
            err.print(f"page at {where}/", markup=False, highlight=False)
        serve_app(app, listening, drain_seconds=settings.drain_seconds, at_end=at_end)
