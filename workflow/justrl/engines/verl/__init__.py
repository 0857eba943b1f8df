"""The paper's engine: verl on Ray, FSDP2 and vLLM. Importing this package imports none of them."""


def train_segment(request) -> None:
    """Train one segment with verl; see `justrl.engines.verl.engine`."""
    from justrl.engines.verl.engine import train_segment as run

    run(request)
