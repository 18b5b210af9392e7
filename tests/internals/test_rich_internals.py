"""Rich's private interfaces exist."""
import io

from rich.console import Console
from rich.live import Live

from pipeline.internals.rich_internals import ResizableLive


def test_live_render_shape_gives_the_position():
    console = Console(file=io.StringIO(), force_terminal=True, width=40, height=10, _environ={"TERM": "xterm"})
    live = ResizableLive("two\nlines", lambda: [3, 5], console=console, auto_refresh=False)
    live.start()
    live.refresh()
    assert live._live_render._shape[1] == 2 and hasattr(Live, "process_renderables")
    live.stop()
