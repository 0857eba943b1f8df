"""Model folders in Hugging Face's layout: downloaded, or made and taught by the workflow.

Outputs: <results>/models/{model}/ with safetensors, tokenizer and configuration; no pickles, no remote code.
"""


localrules:
    download_model,


rule download_model:
    """Fetch a model at its locked revision."""
    output:
        folder=directory("<results>/models/{model}"),
    log:
        "<logs>/download_model/{model}.log",
    benchmark:
        "<timings>/download_model/{model}.tsv"
    wildcard_constraints:
        model=names_of(MODEL_SOURCES, "hub"),
    conda:
        "../envs/workflow.yaml"
    params:
        hub_id=lambda wildcards: MODEL_SOURCES[wildcards.model]["hub_id"],
        revision=lambda wildcards: MODEL_SOURCES[wildcards.model]["revision"] or "main",
        options=hub_options(),
    shell:
        r"""
        python -m justrl.data.download model \
            --hub-id {params.hub_id:q} \
            --revision {params.revision:q} \
            --lock data.lock.json \
            --output {output.folder:q} \
            {params.options:q} \
            2> >(log_to {log:q})
        """


rule teach_model:
    """Make a tiny Qwen2 and teach it the form of a solution, but not to be sure of it."""
    output:
        folder=directory("<results>/models/{model}"),
    log:
        "<logs>/teach_model/{model}.log",
    benchmark:
        "<timings>/teach_model/{model}.tsv"
    wildcard_constraints:
        model=names_of(MODEL_SOURCES, "taught"),
    conda:
        "../envs/workflow.yaml"
    threads: HARDWARE["cpus_per_node"]
    params:
        settings=lambda wildcards: json.dumps(MODEL_SOURCES[wildcards.model], sort_keys=True),
        seed=config["seed"],
    shell:
        r"""
        python -m justrl.data.teach \
            --settings {params.settings:q} \
            --seed {params.seed} \
            --output {output.folder:q} \
            2> >(log_to {log:q})
        """
