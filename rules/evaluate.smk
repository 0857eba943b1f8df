"""Completions, verdicts and scores, each kept: grading never generates, scoring never grades.

Inputs: a model folder and a benchmark. Outputs: <results>/evaluations/{target}/{benchmark}/{protocol}/ and
<results>/{benchmark}_{name}.json, where {name} is a run (its last checkpoint), run@step, run@base or a published model.
"""


localrules:
    score,
    score_under,


rule generate:
    """Sample this shard's share of the answers, all in one submission, resuming from what a killed job left."""
    input:
        model=ancient(target_model),
        questions=ancient("<results>/benchmarks/{benchmark}/questions.parquet"),
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
    threads: HARDWARE["cpus_per_evaluation"]
    resources:
        gpu=HARDWARE["gpus_per_evaluation"],
        cpus_per_task=HARDWARE["cpus_per_evaluation"],
        mem_mb=HARDWARE["memory_per_evaluation_gb"] * 1000,
        runtime=720,
    params:
        protocol=protocol_json,
        samples=samples_of,
        backend=EVALUATION["backend"],
        dtype=EVALUATION["dtype"],
        seed=config["seed"],
    shell:
        r"""
        python -m justrl.operations.gpus --count {resources.gpu} -- \
            python -m justrl.generate \
            --model {input.model:q} \
            --benchmark {input.questions:q} \
            --protocol {params.protocol:q} \
            --samples {params.samples} \
            --shard {wildcards.shard} \
            --shards {wildcards.shards} \
            --backend {params.backend:q} \
            --dtype {params.dtype:q} \
            --run {wildcards.target:q} \
            --seed {params.seed} \
            --output {output:q} \
            2> >(log_to {log:q})
        """


rule grade:
    """Give each completion the verdict of every rule grader."""
    input:
        completions_of,
    output:
        "<results>/evaluations/{target}/{benchmark}/{protocol}/grades_rules.parquet",
    log:
        "<logs>/grade/{target}_{benchmark}_{protocol}.log",
    benchmark:
        "<timings>/grade/{target}_{benchmark}_{protocol}.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        graders=",".join(EVALUATION["graders"]),
    shell:
        r"""
        python -m justrl.grade \
            --completions {input:q} \
            --graders {params.graders:q} \
            --output {output:q} \
            2> >(log_to {log:q})
        """


rule grade_by_model:
    """Ask the model verifier about what the paper's rules rejected."""
    input:
        completions=completions_of,
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
    threads: HARDWARE["cpus_per_evaluation"]
    resources:
        gpu=HARDWARE["gpus_per_evaluation"],
        cpus_per_task=HARDWARE["cpus_per_evaluation"],
        mem_mb=HARDWARE["memory_per_evaluation_gb"] * 1000,
        runtime=720,
    params:
        backend=EVALUATION["backend"],
        dtype=EVALUATION["dtype"],
        max_tokens=EVALUATION["model_grader"]["max_tokens"],
        options=[] if EVALUATION["model_grader"]["fill_question"] else ["--empty-question"],
    shell:
        r"""
        python -m justrl.operations.gpus --count {resources.gpu} -- \
            python -m justrl.grade \
            --completions {input.completions:q} \
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
    """Turn verdicts into avg@k with its interval, pass@k, maj@k, lengths and provenance."""
    input:
        completions=scored_completions(EVALUATION["protocol"]),
        grades=scored_grades(EVALUATION["protocol"]),
        questions="<results>/benchmarks/{benchmark}/questions.parquet",
    output:
        "<results>/{benchmark}_{name}.json",
    log:
        "<logs>/score/{benchmark}_{name}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        headline=EVALUATION["headline_grader"],
        experiment=lambda wildcards: experiment_of(wildcards.name),
        options=score_options,
        seed=config["seed"],
    shell:
        r"""
        python -m justrl.score \
            --completions {input.completions:q} \
            --grades {input.grades:q} \
            --benchmark {input.questions:q} \
            --headline {params.headline:q} \
            --experiment {params.experiment:q} \
            --name {wildcards.name:q} \
            --seed {params.seed} \
            --output {output:q} \
            {params.options:q} \
            2> >(log_to {log:q})
        """


use rule score as score_under with:
    input:
        completions=lambda wildcards: scored_completions(wildcards.protocol)(wildcards),
        grades=lambda wildcards: scored_grades(wildcards.protocol)(wildcards),
        questions="<results>/benchmarks/{benchmark}/questions.parquet",
    output:
        "<results>/{protocol}/{benchmark}_{name}.json",
    log:
        "<logs>/score_under/{protocol}/{benchmark}_{name}.log",
