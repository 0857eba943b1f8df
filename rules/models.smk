"""Model folders in Hugging Face's layout: downloaded, or created and warm-started by the workflow.

Outputs: <results>/models/{model}/ with safetensors, tokenizer and configuration; no pickles, no remote code.
"""


localrules:
    download_model,
    take_model,


use rule download_dataset as download_model with:
    """Download a model from the hub or its mirror."""
    output:
        folder=directory("<results>/models/{model}"),
    log:
        "<logs>/download_model/{model}.log",
    benchmark:
        "<timings>/download_model/{model}.tsv"
    wildcard_constraints:
        model=names_of(MODEL_SOURCES, "hub"),
    params:
        kind="model",
        hub_id=lambda wildcards: MODEL_SOURCES[wildcards.model].hub_id,
        revision=lambda wildcards: MODEL_SOURCES[wildcards.model].revision or "main",
        options=literal(hub_options()),


use rule take_dataset as take_model with:
    """Copy a model from a local folder."""
    output:
        folder=directory("<results>/models/{model}"),
    log:
        "<logs>/take_model/{model}.log",
    wildcard_constraints:
        model=names_of(MODEL_SOURCES, "local"),
    params:
        kind="model",
        path=lambda wildcards: MODEL_SOURCES[wildcards.model].path,


rule teach_model:
    """Warm-start a tiny Qwen2 by supervised training, to partial accuracy."""
    output:
        folder=directory("<results>/models/{model}"),
    log:
        "<logs>/teach_model/{model}.log",
    benchmark:
        "<timings>/teach_model/{model}.tsv"
    wildcard_constraints:
        model=names_of(MODEL_SOURCES, "tiny"),
    conda:
        "../envs/workflow.yaml"
    threads: HARDWARE.cpus_per_node
    resources:
        cpus_per_task=HARDWARE.cpus_per_node,
    params:
        # With the earlier name of the source, because Snakemake creates a model again if a param has changed.
        settings=lambda wildcards: json.dumps(
            MODEL_SOURCES[wildcards.model].as_dict() | {"source": "taught"}, sort_keys=True
        ),
        seed=EXPERIMENT.seed,
    shell:
        r"""
        python -m justrl data warm-start \
            --settings {params.settings:q} \
            --seed {params.seed} \
            --threads {threads} \
            --output {output.folder:q} \
            2> >(log_to {log:q})
        """
