"""Figures, tables and pages of the report, the provenance of all results, and their checksums.

Inputs: metrics of runs and result JSONs. Outputs: a rule for each row of workflow/justrl/report/pages.py, below
<results>/; verdicts of canaries, <results>/provenance.html, <results>/checksums.json.
"""


localrules:
    judge_canary,
    write_provenance,
    write_checksums,


for page in pages.PAGES:

    rule:
        name:
            page.rule
        input:
            **page_inputs(page),
        output:
            *page_outputs(page),
        log:
            f"<logs>/{page.log}.log",
        localrule: True
        conda:
            "../envs/workflow.yaml"
        params:
            **page_options(page),
            command=page_command(page),
        shell:
            "{params.command} 2> >(log_to {log:q})"

    getattr(rules, page.rule).rule.docstring = page.about


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


rule write_checksums:
    """Record size and SHA-256 of every file, for `justrl verify`."""
    input:
        results=LAYOUT.evaluation_results(),
        pages=pages.files(LAYOUT, "all"),
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
