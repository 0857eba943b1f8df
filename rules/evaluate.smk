"""Completions, verdicts and scores in separate files: grading never generates, scoring never grades.

Inputs: a model folder and a benchmark. Outputs: <results>/evaluations/{target}/{benchmark}/{protocol}/ and
<results>/{benchmark}_{name}.json, where {name} is a run (its last checkpoint), run@step, run@base or a published model.
"""


localrules:
    score,
    score_under,


rule generate:
    """Generate one shard of the answers; resumes after an interruption."""
    input:
        model=asked(target_model),
        questions=asked("<results>/benchmarks/{benchmark}/questions.parquet"),
    output:
        "<results>/evaluations/{target}/{benchmark}/{protocol}/completions/{shard}-of-{shards}.parquet",
    log:
        "<logs>/generate/{target}_{benchmark}_{protocol}_{shard}-of-{shards}.log",
    benchmark:
        "<timings>/generate/{target}_{benchmark}_{protocol}_{shard}-of-{shards}.tsv"
    wildcard_constraints:
        shards=r"\d+",
    conda:
        "../envs/evaluate.yaml"
    threads: HARDWARE.cpus_per_evaluation
    resources:
        nodes=1,  # otherwise Slurm may grant the GPUs of several nodes
        gpu=HARDWARE.gpus_per_evaluation,
        cpus_per_task=HARDWARE.cpus_per_evaluation,
        mem_mb=HARDWARE.memory_per_evaluation_gb * 1000,
        runtime=generation_runtime,
    params:
        protocol=protocol_json,
        samples=samples_of,
        shard=lambda wildcards: ["--shard", wildcards.shard, "--shards", wildcards.shards],
        backend=EVALUATION.backend,
        dtype=EVALUATION.dtype,
        seed=EXPERIMENT.seed,
    shell:
        r"""
        python -m justrl gpus --count {resources.gpu} -- \
            python -m justrl generate \
            --model {input.model:q} \
            --benchmark {input.questions:q} \
            --protocol {params.protocol:q} \
            --samples {params.samples} \
            {params.shard:q} \
            --backend {params.backend:q} \
            --dtype {params.dtype:q} \
            --run {wildcards.target:q} \
            --seed {params.seed} \
            --output {output:q} \
            2> >(log_to {log:q})
        """


ruleorder: generate_together > generate


use rule generate as generate_together with:
    """Generate the answers of a model to all benchmarks in one job."""
    input:
        model=asked(target_model),
        questions=asked(expand("<results>/benchmarks/{benchmark}/questions.parquet", benchmark=EVALUATION.benchmarks)),
    output:
        expand(
            "<results>/evaluations/{{target}}/{benchmark}/{{protocol}}/completions/0-of-1.parquet",
            benchmark=EVALUATION.benchmarks,
        ),
    log:
        "<logs>/generate/{target}_{protocol}.log",
    benchmark:
        "<timings>/generate/{target}_{protocol}.tsv"
    wildcard_constraints:
        protocol=any_of([EVALUATION.protocol] if EVALUATION.together else []),
    params:
        protocol=protocol_json,
        samples=lambda wildcards: [EXPERIMENT.samples(name, wildcards.protocol) for name in EVALUATION.benchmarks],
        shard=[],
        backend=EVALUATION.backend,
        dtype=EVALUATION.dtype,
        seed=EXPERIMENT.seed,


rule grade:
    """Grade all completions with all rule-based graders."""
    input:
        completions=completions_of,
        questions="<results>/benchmarks/{benchmark}/questions.parquet",
    output:
        "<results>/evaluations/{target}/{benchmark}/{protocol}/grades_rules.parquet",
    log:
        "<logs>/grade/{target}_{benchmark}_{protocol}.log",
    benchmark:
        "<timings>/grade/{target}_{benchmark}_{protocol}.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: pool_cores()
    resources:
        cpus_per_task=pool_cores(),
    params:
        config=generation_json,
        graders=grader_options,
    shell:
        r"""
        python -m justrl grade \
            --completions {input.completions:q} \
            --golds {input.questions:q} \
            --config {params.config:q} \
            --graders {params.graders:q} \
            --processes {threads} \
            --output {output:q} \
            2> >(log_to {log:q})
        """


rule grade_by_model:
    """Grade the answers that the rules rejected with the judge model."""
    input:
        completions=completions_of,
        questions="<results>/benchmarks/{benchmark}/questions.parquet",
        rules="<results>/evaluations/{target}/{benchmark}/{protocol}/grades_rules.parquet",
        model=ancient("<results>/models/model_grader"),
    output:
        "<results>/evaluations/{target}/{benchmark}/{protocol}/grades_model.parquet",
    log:
        "<logs>/grade_by_model/{target}_{benchmark}_{protocol}.log",
    benchmark:
        "<timings>/grade_by_model/{target}_{benchmark}_{protocol}.tsv"
    conda:
        "../envs/evaluate.yaml"
    threads: HARDWARE.cpus_per_evaluation
    resources:
        nodes=1,  # otherwise Slurm may grant the GPUs of several nodes
        gpu=HARDWARE.gpus_per_evaluation,
        cpus_per_task=HARDWARE.cpus_per_evaluation,
        mem_mb=HARDWARE.memory_per_evaluation_gb * 1000,
        runtime=judge_runtime,
    params:
        config=generation_json,
        backend=EVALUATION.backend,
        dtype=EVALUATION.dtype,
        max_tokens=EVALUATION.model_grader.max_tokens,
        options=judge_options(),
    shell:
        r"""
        python -m justrl gpus --count {resources.gpu} -- \
            python -m justrl grade \
            --completions {input.completions:q} \
            --golds {input.questions:q} \
            --config {params.config:q} \
            --grader model \
            --rejected-by {input.rules:q} \
            --model {input.model:q} \
            --backend {params.backend:q} \
            --dtype {params.dtype:q} \
            --max-tokens {params.max_tokens} \
            --output {output:q} \
            {params.options:q} \
            2> >(log_to {log:q})
        """


rule score:
    """Compute avg@k with its confidence interval, pass@k, maj@k, lengths and provenance."""
    input:
        completions=scored_completions,
        grades=scored_grades,
        questions="<results>/benchmarks/{benchmark}/questions.parquet",
    output:
        "<results>/{benchmark}_{name}.json",
    log:
        "<logs>/score/{benchmark}_{name}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        config=result_json,
        headline=EVALUATION.headline_grader,
        experiment=lambda wildcards: LAYOUT.stamp(wildcards.name),
        family=family_option,
    shell:
        r"""
        python -m justrl score \
            --completions {input.completions:q} \
            --grades {input.grades:q} \
            --benchmark {input.questions:q} \
            --config {params.config:q} \
            --headline {params.headline:q} \
            --experiment {params.experiment:q} \
            --name {wildcards.name:q} \
            --output {output:q} \
            {params.family:q} \
            2> >(log_to {log:q})
        """


use rule score as score_under with:
    """Compute a result under a protocol other than the experiment's."""
    output:
        "<results>/{protocol}/{benchmark}_{name}.json",
    log:
        "<logs>/score_under/{protocol}/{benchmark}_{name}.log",
