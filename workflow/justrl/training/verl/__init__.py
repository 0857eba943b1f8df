"""The paper's engine: verl on Ray, FSDP2 and vLLM. Importing this package imports none of them."""
