"""Figures, the comparison with the published numbers, and how everything was made.

Inputs: metrics of runs and result JSONs. Outputs: <results>/figures/, <results>/comparison/, <results>/provenance.html.
"""


localrules:
    plot_training,
    plot_checkpoints,
    compare_with_published,
    write_provenance,


rule plot_training:
    """Draw reward, entropy and response length over the steps of a run."""
    input:
        "<results>/runs/{run}/metrics.jsonl",
    output:
        svg=report(
            "<results>/figures/{run}/training.svg",
            caption="../workflow/captions/training.rst",
            category="Training",
            labels={"run": "{run}", "figure": "reward, entropy and length"},
        ),
        png="<results>/figures/{run}/training.png",
    log:
        "<logs>/plot_training/{run}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        experiment=lambda wildcards: experiment_of(wildcards.run),
    shell:
        r"""
        python -m justrl.analysis.figures training \
            --metrics {input:q} \
            --labels {wildcards.run:q} \
            --experiment {params.experiment:q} \
            --output-svg {output.svg:q} \
            --output-png {output.png:q} \
            2> >(log_to {log:q})
        """


rule plot_checkpoints:
    """Draw accuracy against training step with its 95% interval."""
    input:
        checkpoint_results,
    output:
        svg=report(
            "<results>/figures/{run}/checkpoints.svg",
            caption="../workflow/captions/checkpoints.rst",
            category="Benchmarks",
            labels={"run": "{run}", "figure": "accuracy against step"},
        ),
        png="<results>/figures/{run}/checkpoints.png",
    log:
        "<logs>/plot_checkpoints/{run}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        experiment=lambda wildcards: experiment_of(wildcards.run),
    shell:
        r"""
        python -m justrl.analysis.figures checkpoints \
            --results {input:q} \
            --experiment {params.experiment:q} \
            --output-svg {output.svg:q} \
            --output-png {output.png:q} \
            2> >(log_to {log:q})
        """


rule compare_with_published:
    """Set our numbers, per grader, beside the published ones of the same family."""
    input:
        family_results,
    output:
        html=report(
            "<results>/comparison/{family}.html",
            caption="../workflow/captions/comparison.rst",
            category="Comparison",
            labels={"family": "{family}", "form": "table"},
        ),
        csv="<results>/comparison/{family}.csv",
        markdown="<results>/comparison/{family}.md",
        svg=report(
            "<results>/comparison/{family}.svg",
            caption="../workflow/captions/comparison.rst",
            category="Comparison",
            labels={"family": "{family}", "form": "figure"},
        ),
        png="<results>/comparison/{family}.png",
    log:
        "<logs>/compare_with_published/{family}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        experiment=lambda wildcards: experiment_of(wildcards.family),
    shell:
        r"""
        python -m justrl.analysis.comparison \
            --results {input:q} \
            --family {wildcards.family:q} \
            --experiment {params.experiment:q} \
            --output-html {output.html:q} \
            --output-csv {output.csv:q} \
            --output-md {output.markdown:q} \
            --output-svg {output.svg:q} \
            --output-png {output.png:q} \
            2> >(log_to {log:q})
        """


rule write_provenance:
    """Say how the results were made: commit, configuration, versions, revisions, seeds, hardware."""
    input:
        evaluation_results(),
    output:
        html=report(
            "<results>/provenance.html",
            caption="../workflow/captions/provenance.rst",
            category="Provenance",
        ),
        json="<results>/provenance.json",
    log:
        "<logs>/write_provenance.log",
    conda:
        "../envs/workflow.yaml"
    params:
        config=json.dumps(config, sort_keys=True, default=str),
    shell:
        r"""
        python -m justrl.analysis.provenance \
            --config-json {params.config:q} \
            --results {input:q} \
            --output-json {output.json:q} \
            --output-html {output.html:q} \
            2> >(log_to {log:q})
        """
