"""Figures, the comparison with the published numbers, and how everything was made.

Inputs: metrics of runs and result JSONs. Outputs: <results>/figures/, <results>/comparison/, <results>/provenance.html.
"""


localrules:
    plot_training,
    plot_overlay,
    plot_diagnostics,
    summarise_health,
    plot_checkpoints,
    plot_pass_at_k,
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


rule plot_overlay:
    """Draw reward, entropy and response length of several runs together."""
    input:
        overlay_metrics,
    output:
        svg=report(
            "<results>/figures/overlays/{overlay}.svg",
            caption="../workflow/captions/overlay.rst",
            category="Training",
            labels={"run": "{overlay}", "figure": "several runs together"},
        ),
        png="<results>/figures/overlays/{overlay}.png",
    log:
        "<logs>/plot_overlay/{overlay}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        experiment=config["experiment"],
        labels=lambda wildcards: config["overlays"][wildcards.overlay],
    shell:
        r"""
        python -m justrl.analysis.figures training \
            --metrics {input:q} \
            --labels {params.labels:q} \
            --experiment {params.experiment:q} \
            --output-svg {output.svg:q} \
            --output-png {output.png:q} \
            2> >(log_to {log:q})
        """


rule plot_diagnostics:
    """Draw what tells a sick run from a healthy one: truncation, clipping, gradient norm, rate, speed."""
    input:
        "<results>/runs/{run}/metrics.jsonl",
    output:
        svg=report(
            "<results>/figures/{run}/diagnostics.svg",
            caption="../workflow/captions/diagnostics.rst",
            category="Training",
            labels={"run": "{run}", "figure": "diagnostics"},
        ),
        png="<results>/figures/{run}/diagnostics.png",
    log:
        "<logs>/plot_diagnostics/{run}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        experiment=lambda wildcards: experiment_of(wildcards.run),
    shell:
        r"""
        python -m justrl.analysis.figures training \
            --metrics {input:q} \
            --labels {wildcards.run:q} \
            --panels accuracy truncation clip_fraction grad_norm learning_rate throughput step_time \
            --experiment {params.experiment:q} \
            --output-svg {output.svg:q} \
            --output-png {output.png:q} \
            2> >(log_to {log:q})
        """


rule summarise_health:
    """Say how a run began and ended, and what went wrong on the way."""
    input:
        "<results>/runs/{run}/metrics.jsonl",
    output:
        "<results>/runs/{run}/health.json",
    log:
        "<logs>/summarise_health/{run}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        experiment=lambda wildcards: experiment_of(wildcards.run),
    shell:
        r"""
        python -m justrl.analysis.metrics summary \
            --metrics {input:q} \
            --experiment {params.experiment:q} \
            --output {output:q} \
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
        labels=benchmark_labels(),
    shell:
        r"""
        python -m justrl.analysis.figures checkpoints \
            --results {input:q} \
            --experiment {params.experiment:q} \
            {params.labels:q} \
            --output-svg {output.svg:q} \
            --output-png {output.png:q} \
            2> >(log_to {log:q})
        """


rule plot_pass_at_k:
    """Draw pass@k of base and last checkpoint: what training found, and what it only made more likely."""
    input:
        base_and_last_results,
    output:
        svg=report(
            "<results>/figures/{run}/pass_at_k.svg",
            caption="../workflow/captions/pass_at_k.rst",
            category="Benchmarks",
            labels={"run": "{run}", "figure": "pass@k"},
        ),
        png="<results>/figures/{run}/pass_at_k.png",
    log:
        "<logs>/plot_pass_at_k/{run}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        experiment=lambda wildcards: experiment_of(wildcards.run),
        labels=benchmark_labels(),
    shell:
        r"""
        python -m justrl.analysis.figures pass-at-k \
            --results {input:q} \
            --experiment {params.experiment:q} \
            {params.labels:q} \
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
        labels=benchmark_labels(),
    shell:
        r"""
        python -m justrl.analysis.comparison \
            --results {input:q} \
            --family {wildcards.family:q} \
            --experiment {params.experiment:q} \
            {params.labels:q} \
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
        results=evaluation_results(),
        sources=hub_folders(),
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
        sources=collect("{folder}/source.json", folder=hub_folders()),
    shell:
        r"""
        python -m justrl.analysis.provenance \
            --config-json {params.config:q} \
            --results {input.results:q} \
            --sources {params.sources:q} \
            --output-json {output.json:q} \
            --output-html {output.html:q} \
            2> >(log_to {log:q})
        """
