"""Figures, the comparison with the published scores, and the provenance of all results.

Inputs: metrics of runs and result JSONs. Outputs: <results>/figures/, <results>/comparison/, <results>/provenance.html,
<results>/checksums.json, model cards.
"""


localrules:
    plot_training,
    plot_overlay,
    plot_forecast,
    plot_early_forecast,
    plot_diagnostics,
    summarise_health,
    judge_canary,
    summarise_results,
    plot_checkpoints,
    plot_pass_at_k,
    compare_with_published,
    compare_golden,
    plot_first_thousand,
    compare_settings,
    plot_contamination,
    show_samples,
    show_samples_under,
    show_rollouts,
    judge_claims,
    judge_golden_claims,
    judge_first_thousand,
    write_provenance,
    write_model_card,
    write_checksums,


rule plot_training:
    """Plot reward, entropy and response length of a run against the training step."""
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
        narrow="<results>/figures/{run}/training.narrow.svg",
    log:
        "<logs>/plot_training/{run}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        panels=["reward", "entropy", "length"],
    shell:
        r"""
        python -m justrl report training \
            --metrics @<(listed {input:q}) \
            --panels {params.panels} \
            --output {output:q} \
            2> >(log_to {log:q})
        """


use rule plot_training as plot_overlay with:
    """Plot the metrics of several runs in one figure."""
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
        narrow="<results>/figures/overlays/{overlay}.narrow.svg",
    log:
        "<logs>/plot_overlay/{overlay}.log",


rule plot_forecast:
    """Fit a saturating curve to the first half of a run and forecast the rest."""
    input:
        metrics="<results>/runs/{run}/metrics.jsonl",
        results=checkpoint_results,
    output:
        svg=report(
            "<results>/figures/{run}/forecast.svg",
            caption="../workflow/captions/forecast.rst",
            category="Diagnostics",
            labels={"run": "{run}", "figure": "forecast"},
        ),
        png="<results>/figures/{run}/forecast.png",
        narrow="<results>/figures/{run}/forecast.narrow.svg",
        json="<results>/figures/{run}/forecast.json",
    log:
        "<logs>/plot_forecast/{run}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        steps=run_steps,
        labels=benchmark_labels,
    shell:
        r"""
        python -m justrl report forecast \
            --metrics {input.metrics:q} \
            --results {input.results:q} \
            --benchmark-labels {params.labels:q} \
            --steps {params.steps} \
            --output {output:q} \
            2> >(log_to {log:q})
        """


use rule plot_forecast as plot_early_forecast with:
    """Forecast the rest of a run from its first 1,000 steps."""
    input:
        metrics=of(LAYOUT.first_thousand_metrics, "run"),
        results=[],
    output:
        svg=report(
            "<results>/first_1000/{run}/forecast.svg",
            caption="../workflow/captions/forecast.rst",
            category="First 1,000 steps",
            labels={"run": "{run}", "what": "forecast"},
        ),
        png="<results>/first_1000/{run}/forecast.png",
        narrow="<results>/first_1000/{run}/forecast.narrow.svg",
        json="<results>/first_1000/{run}/forecast.json",
    log:
        "<logs>/plot_early_forecast/{run}.log",


use rule plot_training as plot_diagnostics with:
    """Plot truncation, clipping, gradient norm, learning rate and speed."""
    output:
        svg=report(
            "<results>/figures/{run}/diagnostics.svg",
            caption="../workflow/captions/diagnostics.rst",
            category="Diagnostics",
            labels={"run": "{run}", "figure": "diagnostics"},
        ),
        png="<results>/figures/{run}/diagnostics.png",
        narrow="<results>/figures/{run}/diagnostics.narrow.svg",
    log:
        "<logs>/plot_diagnostics/{run}.log",
    params:
        panels=["accuracy", "truncation", "clip_fraction", "grad_norm", "learning_rate", "throughput", "step_time"],


rule summarise_health:
    """Summarise the health of a run: first and last metrics, and findings."""
    input:
        "<results>/runs/{run}/metrics.jsonl",
    output:
        report(
            "<results>/runs/{run}/health.json",
            caption="../workflow/captions/health.rst",
            category="Diagnostics",
            labels={"run": "{run}", "figure": "health"},
        ),
    log:
        "<logs>/summarise_health/{run}.log",
    conda:
        "../envs/workflow.yaml"
    shell:
        r"""
        python -m justrl report health \
            --metrics {input:q} \
            --output {output:q} \
            2> >(log_to {log:q})
        """


rule judge_canary:
    """Check the short trial of a run (canary), question by question."""
    input:
        metrics="<results>/runs/{run}/metrics.jsonl",
        run_file="<results>/runs/{run}/run.json",
        result=of(LAYOUT.canary_result, "run"),
    output:
        json="<results>/runs/{run}/verdict.json",
        html=report(
            "<results>/runs/{run}/verdict.html",
            caption="../workflow/captions/verdict.rst",
            category="Diagnostics",
            labels={"run": "{run}", "figure": "verdicts"},
        ),
    log:
        "<logs>/judge_canary/{run}.log",
    wildcard_constraints:
        run=any_of(name for name, entry in RUNS.items() if entry.canary),
    conda:
        "../envs/workflow.yaml"
    params:
        asked=canary_asked,
        result=lambda wildcards, input: [word for file in input.result for word in ("--result", file)],
    shell:
        r"""
        python -m justrl canary judge \
            --metrics {input.metrics:q} \
            --run-file {input.run_file:q} \
            --asked {params.asked:q} \
            {params.result:q} \
            --output {output:q} \
            2> >(log_to {log:q})
        """


rule summarise_results:
    """Summarise accuracy and health of each run in one sentence."""
    input:
        results=LAYOUT.evaluation_results(),
        health=LAYOUT.health(LAYOUT.experiment.enabled),
    output:
        html=report(
            "<results>/summary.html",
            caption="../workflow/captions/summary.rst",
            category="Summary",
            labels={"what": "accuracy and health of every run"},
        ),
        text="<results>/summary.txt",
    log:
        "<logs>/summarise_results.log",
    conda:
        "../envs/workflow.yaml"
    params:
        labels=benchmark_labels,
        experiment=LAYOUT.common_stamp,
    shell:
        r"""
        python -m justrl report summary \
            --results @<(listed {input.results:q}) \
            --health @<(listed {input.health:q}) \
            --benchmark-labels {params.labels:q} \
            --experiment {params.experiment:q} \
            --output {output:q} \
            2> >(log_to {log:q})
        """


rule plot_checkpoints:
    """Plot accuracy with its 95% confidence interval against the training step."""
    input:
        checkpoint_results,
    output:
        svg=report(
            "<results>/figures/{run}/checkpoints.svg",
            caption="../workflow/captions/checkpoints.rst",
            category="Accuracy",
            labels={"run": "{run}", "figure": "accuracy against step"},
        ),
        png="<results>/figures/{run}/checkpoints.png",
        narrow="<results>/figures/{run}/checkpoints.narrow.svg",
    log:
        "<logs>/plot_checkpoints/{run}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        figure="checkpoints",
        labels=benchmark_labels,
    shell:
        r"""
        python -m justrl report {params.figure} \
            --results {input:q} \
            --benchmark-labels {params.labels:q} \
            --output {output:q} \
            2> >(log_to {log:q})
        """


use rule plot_checkpoints as plot_pass_at_k with:
    """Plot pass@k against k for a run's base model and last checkpoint."""
    input:
        base_and_last_results,
    output:
        svg=report(
            "<results>/figures/{run}/pass_at_k.svg",
            caption="../workflow/captions/pass_at_k.rst",
            category="Accuracy",
            labels={"run": "{run}", "figure": "pass@k"},
        ),
        png="<results>/figures/{run}/pass_at_k.png",
        narrow="<results>/figures/{run}/pass_at_k.narrow.svg",
    log:
        "<logs>/plot_pass_at_k/{run}.log",
    params:
        figure="pass-at-k",
        labels=benchmark_labels,


rule compare_with_published:
    """Compare our scores, per grader, with the published ones of a family."""
    input:
        family_results,
    output:
        html=report(
            "<results>/comparison/{family}.html",
            caption="../workflow/captions/comparison.rst",
            category="Accuracy",
            labels={"run": "{family}", "figure": "tables by benchmark and grader"},
        ),
        csv="<results>/comparison/{family}.csv",
        markdown="<results>/comparison/{family}.md",
        svg=report(
            "<results>/comparison/{family}.svg",
            caption="../workflow/captions/comparison.rst",
            category="Accuracy",
            labels={"run": "{family}", "figure": "accuracy by benchmark"},
        ),
        png="<results>/comparison/{family}.png",
        narrow="<results>/comparison/{family}.narrow.svg",
    log:
        "<logs>/compare_with_published/{family}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        seeds=seed_options,
        labels=benchmark_labels,
    shell:
        r"""
        python -m justrl report comparison \
            --results @<(listed {input:q}) \
            --family {wildcards.family:q} \
            --benchmark-labels {params.labels:q} \
            --output {output:q} \
            {params.seeds:q} \
            2> >(log_to {log:q})
        """


use rule compare_with_published as compare_golden with:
    """Compare our scores of released weights with the published ones."""
    input:
        of(LAYOUT.golden_family, "family"),
    output:
        html=report(
            "<results>/golden/{family}.html",
            caption="../workflow/captions/comparison.rst",
            category="Released weights",
            labels={"run": "{family}", "figure": "tables by benchmark and grader"},
        ),
        csv="<results>/golden/{family}.csv",
        markdown="<results>/golden/{family}.md",
        svg=report(
            "<results>/golden/{family}.svg",
            caption="../workflow/captions/comparison.rst",
            category="Released weights",
            labels={"run": "{family}", "figure": "accuracy by benchmark"},
        ),
        png="<results>/golden/{family}.png",
        narrow="<results>/golden/{family}.narrow.svg",
    log:
        "<logs>/compare_golden/{family}.log",


rule compare_settings:
    """Compare two settings on the same questions, over seeds and questions."""
    input:
        results=of(LAYOUT.pair_results, "pair"),
        metrics=of(LAYOUT.pair_metrics, "pair"),
    output:
        html=report(
            "<results>/compared/{pair}.html",
            caption="../workflow/captions/compared.rst",
            category="Compared",
            labels={"run": "{pair}", "figure": "tables of the comparison"},
        ),
        json="<results>/compared/{pair}.json",
        markdown="<results>/compared/{pair}.md",
        svg=report(
            "<results>/compared/{pair}.svg",
            caption="../workflow/captions/compared.rst",
            category="Compared",
            labels={"run": "{pair}", "figure": "comparison"},
        ),
        png="<results>/compared/{pair}.png",
        narrow="<results>/compared/{pair}.narrow.svg",
    log:
        "<logs>/compare_settings/{pair}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        sides=pair_options,
        labels=benchmark_labels,
    shell:
        r"""
        python -m justrl report pair \
            {params.sides:q} \
            --results @<(listed {input.results:q}) \
            --metrics @<(listed {input.metrics:q}) \
            --benchmark-labels {params.labels:q} \
            --output {output:q} \
            2> >(log_to {log:q})
        """


rule plot_contamination:
    """Plot the overlap of each benchmark with a training set."""
    input:
        summary="<results>/data/{dataset}/{model}/contamination.json",
        card="<results>/data/{dataset}/{model}/prepared/data_card.json",
    output:
        svg=report(
            "<results>/data/{dataset}/{model}/contamination.svg",
            caption="../workflow/captions/contamination.rst",
            category="Data",
            labels={"data set": "{dataset}", "model": "{model}", "what": "overlap with benchmarks"},
        ),
        png="<results>/data/{dataset}/{model}/contamination.png",
        narrow="<results>/data/{dataset}/{model}/contamination.narrow.svg",
        html=report(
            "<results>/data/{dataset}/{model}/contamination.html",
            caption="../workflow/captions/data_card.rst",
            category="Data",
            labels={"data set": "{dataset}", "model": "{model}", "what": "data card and overlap with benchmarks"},
        ),
        markdown="<results>/data/{dataset}/{model}/contamination.md",
    log:
        "<logs>/plot_contamination/{dataset}_{model}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        newer=[name for name, entry in EXPERIMENT.benchmarks.items() if getattr(entry, "newer", False)],
        labels=benchmark_labels,
        experiment=of(LAYOUT.data_stamp, "dataset", "model"),
    shell:
        r"""
        python -m justrl report contamination \
            --summary {input.summary:q} \
            --card {input.card:q} \
            --newer {params.newer:q} \
            --benchmark-labels {params.labels:q} \
            --experiment {params.experiment:q} \
            --output {output:q} \
            2> >(log_to {log:q})
        """


rule show_samples:
    """Write the page of answers, with verdicts, filters and warnings."""
    input:
        completions=scored_completions,
        grades=scored_grades,
        questions="<results>/benchmarks/{benchmark}/questions.parquet",
    output:
        "<results>/samples/{benchmark}_{name}.html",
    log:
        "<logs>/show_samples/{benchmark}_{name}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        headline=EVALUATION.headline_grader,
        experiment=lambda wildcards: experiment_of(wildcards.name),
        title=lambda wildcards: f"Answers of {wildcards.name} to {EXPERIMENT.benchmarks[wildcards.benchmark].label}",
    shell:
        r"""
        python -m justrl report samples \
            --completions {input.completions:q} \
            --grades {input.grades:q} \
            --benchmark {input.questions:q} \
            --headline {params.headline:q} \
            --experiment {params.experiment:q} \
            --title {params.title:q} \
            --output {output:q} \
            2> >(log_to {log:q})
        """


use rule show_samples as show_samples_under with:
    """Write the page of answers under another protocol."""
    output:
        "<results>/{protocol}/samples/{benchmark}_{name}.html",
    log:
        "<logs>/show_samples_under/{protocol}/{benchmark}_{name}.log",


rule show_rollouts:
    """Write the page of a run's saved rollouts."""
    input:
        "<results>/runs/{run}/metrics.jsonl",
    output:
        "<results>/runs/{run}/rollouts.html",
    log:
        "<logs>/show_rollouts/{run}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        rollouts=of(ON_DISK.rollouts, "run"),
        experiment=lambda wildcards: experiment_of(wildcards.run),
    shell:
        r"""
        python -m justrl report rollouts \
            --rollouts {params.rollouts:q} \
            --experiment {params.experiment:q} \
            --title "Rollouts of {wildcards.run}" \
            --output {output:q} \
            2> >(log_to {log:q})
        """


rule judge_claims:
    """Check the claims of the paper against our results and trainings."""
    input:
        results=LAYOUT.evaluation_results(),
        metrics=[LAYOUT.metrics(run) for run in LAYOUT.trainings("all")],
    output:
        # If nothing in the experiment is the paper's, the report does not include its claims.
        html=(
            report(
                "<results>/claims.html",
                caption="../workflow/captions/claims.rst",
                category="Claims",
                labels={"what": "claims of the paper"},
            )
            if LAYOUT.has_claims
            else "<results>/claims.html"
        ),
        json="<results>/claims.json",
        markdown="<results>/claims.md",
    log:
        "<logs>/judge_claims.log",
    conda:
        "../envs/workflow.yaml"
    params:
        released=[f"{family}={name}" for family, name in LAYOUT.released().items()],
        seeds=seed_options,
        experiment=LAYOUT.common_stamp,
    shell:
        r"""
        python -m justrl report claims \
            --results @<(listed {input.results:q}) \
            --metrics @<(listed {input.metrics:q}) \
            --released {params.released:q} \
            --experiment {params.experiment:q} \
            --output {output:q} \
            {params.seeds:q} \
            2> >(log_to {log:q})
        """


use rule judge_claims as judge_golden_claims with:
    """Check the paper's claims about released weights, without training."""
    input:
        results=LAYOUT.golden_evaluations(),
        metrics=[],
    output:
        html=report(
            "<results>/golden/claims.html",
            caption="../workflow/captions/claims.rst",
            category="Released weights",
            labels={"run": "both families", "figure": "claims of the paper"},
        ),
        json="<results>/golden/claims.json",
        markdown="<results>/golden/claims.md",
    log:
        "<logs>/judge_golden_claims.log",


use rule judge_claims as judge_first_thousand with:
    """Check the claims of the paper that need only the first 1,000 steps."""
    input:
        results=LAYOUT.first_thousand_evaluations(),
        metrics=[LAYOUT.first_thousand_metrics(run) for run in LAYOUT.trainings("first_1000")],
    output:
        html=report(
            "<results>/first_1000/claims.html",
            caption="../workflow/captions/claims.rst",
            category="First 1,000 steps",
            labels={"run": "all", "what": "claims of the paper"},
        ),
        json="<results>/first_1000/claims.json",
        markdown="<results>/first_1000/claims.md",
    log:
        "<logs>/judge_first_thousand.log",


use rule plot_training as plot_first_thousand with:
    """Plot reward, entropy and response length over the first 1,000 steps."""
    input:
        of(LAYOUT.first_thousand_metrics, "run"),
    output:
        svg=report(
            "<results>/first_1000/{run}/training.svg",
            caption="../workflow/captions/training.rst",
            category="First 1,000 steps",
            labels={"run": "{run}", "what": "reward, entropy and length"},
        ),
        png="<results>/first_1000/{run}/training.png",
        narrow="<results>/first_1000/{run}/training.narrow.svg",
    log:
        "<logs>/plot_first_thousand/{run}.log",


rule write_provenance:
    """Record commit, configuration, versions, revisions, seeds, hardware."""
    input:
        results=LAYOUT.evaluation_results(),
        metrics=[LAYOUT.metrics(run) for run in LAYOUT.trainings("all")],
        sources=LAYOUT.hub_folders(),
    output:
        html=report(
            "<results>/provenance.html",
            caption="../workflow/captions/provenance.rst",
            category="Provenance",
            labels={"what": "code, configuration, versions, seeds, hardware, cost"},
        ),
        json="<results>/provenance.json",
    log:
        "<logs>/write_provenance.log",
    conda:
        "../envs/workflow.yaml"
    params:
        config=literal(str(FILE)),
        experiment=LAYOUT.common_stamp,
        folder=subpath(output.json, parent=True),
        sources=lambda wildcards, input: [f"{folder}/source.json" for folder in input.sources],
    shell:
        r"""
        python -m justrl report provenance \
            --config {params.config:q} \
            --experiment {params.experiment:q} \
            --results @<(listed {input.results:q}) \
            --sources @<(listed {params.sources:q}) \
            --cost-of {params.folder:q} \
            --output {output.json:q} {output.html:q} \
            2> >(log_to {log:q})
        """


rule write_model_card:
    """Write the Hugging Face model card of a run's last checkpoint."""
    input:
        run="<results>/runs/{run}/run.json",
        metrics="<results>/runs/{run}/metrics.jsonl",
        results=base_and_last_results,
        sources=ancient(card_sources),
    output:
        "<results>/runs/{run}/model_card.md",
    log:
        "<logs>/write_model_card/{run}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        family=lambda wildcards: RUNS[wildcards.run].family,
        labels=benchmark_labels,
    shell:
        r"""
        python -m justrl report model-card \
            --run {input.run:q} \
            --results {input.results:q} \
            --sources {input.sources:q} \
            --family {params.family:q} \
            --benchmark-labels {params.labels:q} \
            --output {output:q} \
            2> >(log_to {log:q})
        """


rule write_checksums:
    """Record size and SHA-256 of every file, for `justrl verify`."""
    input:
        results=LAYOUT.evaluation_results(),
        pages=LAYOUT.pages(),
        hardware="<results>/hardware.json",
        inputs=ancient([*LAYOUT.downloads(), *LAYOUT.hub_folders()]),
    output:
        "<results>/checksums.json",
    log:
        "<logs>/write_checksums.log",
    conda:
        "../envs/workflow.yaml"
    params:
        config=literal(str(FILE)),
        folder=subpath(output[0], parent=True),
    shell:
        r"""
        python -m justrl report checksums \
            --config {params.config:q} \
            --results {params.folder:q} \
            2> >(log_to {log:q})
        """
