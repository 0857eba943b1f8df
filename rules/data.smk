"""Convert hub repositories and your own files to training questions and benchmarks in one schema.

Inputs: the hub, or the local mirror in the configuration. Outputs: <results>/data/{dataset}/ and
<results>/benchmarks/{benchmark}/. Downloads record the revision and the SHA-256 of each file in data.lock.json.
"""


localrules:
    download_dataset,
    take_dataset,
    generate_dataset,
    generate_task_dataset,
    prepare_training_data,
    check_contamination,
    download_benchmark,
    take_benchmark,
    generate_benchmark,
    generate_task_benchmark,
    format_benchmark,


rule download_dataset:
    """Download a training dataset at its pinned revision."""
    output:
        folder=directory("<results>/data/{dataset}/raw"),
    log:
        "<logs>/download_dataset/{dataset}.log",
    benchmark:
        "<timings>/download_dataset/{dataset}.tsv"
    wildcard_constraints:
        dataset=names_of(EXPERIMENT.datasets, "hub"),
    conda:
        "../envs/workflow.yaml"
    params:
        kind="dataset",
        hub_id=lambda wildcards: EXPERIMENT.datasets[wildcards.dataset].hub_id,
        revision=lambda wildcards: EXPERIMENT.datasets[wildcards.dataset].revision or "main",
        options=literal(hub_options()),
    shell:
        r"""
        python -m justrl data download {params.kind} \
            --hub-id {params.hub_id:q} \
            --revision {params.revision:q} \
            --lock data.lock.json \
            --output {output.folder:q} \
            {params.options:q} \
            2> >(log_to {log:q})
        """


rule take_dataset:
    """Copy a training dataset from disk, with its SHA-256."""
    output:
        folder=directory("<results>/data/{dataset}/raw"),
    log:
        "<logs>/take_dataset/{dataset}.log",
    wildcard_constraints:
        dataset=names_of(EXPERIMENT.datasets, "local"),
    conda:
        "../envs/workflow.yaml"
    params:
        kind="dataset",
        path=lambda wildcards: EXPERIMENT.datasets[wildcards.dataset].path,
    shell:
        r"""
        python -m justrl data local {params.kind} \
            --path {params.path:q} \
            --output {output.folder:q} \
            2> >(log_to {log:q})
        """


rule generate_dataset:
    """Generate sums with exact answers, none of which is in a benchmark."""
    output:
        folder=directory("<results>/data/{dataset}/raw"),
    log:
        "<logs>/generate_dataset/{dataset}.log",
    benchmark:
        "<timings>/generate_dataset/{dataset}.tsv"
    wildcard_constraints:
        dataset=names_of(EXPERIMENT.datasets, "arithmetic"),
    conda:
        "../envs/workflow.yaml"
    params:
        digits=lambda wildcards: EXPERIMENT.datasets[wildcards.dataset].digits,
        harder_share=lambda wildcards: EXPERIMENT.datasets[wildcards.dataset].harder_share,
        rows=lambda wildcards: EXPERIMENT.datasets[wildcards.dataset].rows,
        seed=EXPERIMENT.seed,
    shell:
        r"""
        python -m justrl data arithmetic train \
            --digits {params.digits} \
            --harder-share {params.harder_share} \
            --rows {params.rows} \
            --seed {params.seed} \
            --output {output.folder:q} \
            2> >(log_to {log:q})
        """


rule generate_task_dataset:
    """Generate questions of a reasoning-gym task, none of which is in a benchmark."""
    output:
        folder=directory("<results>/data/{dataset}/raw"),
    log:
        "<logs>/generate_task_dataset/{dataset}.log",
    wildcard_constraints:
        dataset=names_of(EXPERIMENT.datasets, "reasoning_gym"),
    conda:
        "../envs/workflow.yaml"
    params:
        side="train",
        task=lambda wildcards: EXPERIMENT.datasets[wildcards.dataset].task,
        settings=lambda wildcards: json.dumps(EXPERIMENT.datasets[wildcards.dataset].settings),
        rows=lambda wildcards: EXPERIMENT.datasets[wildcards.dataset].rows,
        seed=EXPERIMENT.seed,
    shell:
        r"""
        python -m justrl data task {params.side} \
            --task {params.task:q} \
            --settings {params.settings:q} \
            --rows {params.rows} \
            --seed {params.seed} \
            --output {output.folder:q} \
            2> >(log_to {log:q})
        """


rule prepare_training_data:
    """Clean the questions, format prompts, drop prompts over the length limit."""
    input:
        raw="<results>/data/{dataset}/raw",
        model="<results>/models/{model}",
    output:
        data="<results>/data/{dataset}/{model}/prepared/train.parquet",
        card="<results>/data/{dataset}/{model}/prepared/data_card.json",
    log:
        "<logs>/prepare_training_data/{dataset}_{model}.log",
    benchmark:
        "<timings>/prepare_training_data/{dataset}_{model}.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: pool_cores()
    params:
        folder=subpath(output.data, parent=True),
        suffix=literal(EXPERIMENT.recipe.prompt_suffix),
        separator=literal(EXPERIMENT.recipe.prompt_separator),
        max_prompt_length=EXPERIMENT.recipe.max_prompt_length,
        options=cleaning_options,
    shell:
        r"""
        python -m justrl data prepare \
            --dataset-name {input.raw:q} \
            --tokenizer {input.model:q} \
            --prompt-suffix {params.suffix:q} \
            --prompt-separator {params.separator:q} \
            --max-prompt-length {params.max_prompt_length} \
            --output-dir {params.folder:q} \
            {params.options:q} \
            2> >(log_to {log:q})
        """


rule check_contamination:
    """Count training questions that overlap with a benchmark question."""
    input:
        data="<results>/data/{dataset}/{model}/prepared/train.parquet",
        benchmarks=expand("<results>/benchmarks/{benchmark}/questions.parquet", benchmark=EVALUATION.benchmarks),
    output:
        data="<results>/data/{dataset}/{model}/train.parquet",
        summary="<results>/data/{dataset}/{model}/contamination.json",
        pairs="<results>/data/{dataset}/{model}/contamination.csv",
    log:
        "<logs>/check_contamination/{dataset}_{model}.log",
    benchmark:
        "<timings>/check_contamination/{dataset}_{model}.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        folder=subpath(output.data, parent=True),
        options=contamination_options,
    shell:
        r"""
        python -m justrl data contamination \
            --train {input.data:q} \
            --benchmarks {input.benchmarks:q} \
            --output-dir {params.folder:q} \
            {params.options:q} \
            2> >(log_to {log:q})
        """


use rule download_dataset as download_benchmark with:
    """Download a benchmark from the hub or its mirror."""
    output:
        folder=directory("<results>/benchmarks/{benchmark}/raw"),
    log:
        "<logs>/download_benchmark/{benchmark}.log",
    benchmark:
        "<timings>/download_benchmark/{benchmark}.tsv"
    wildcard_constraints:
        benchmark=names_of(EXPERIMENT.benchmarks, "hub"),
    params:
        kind="benchmark",
        hub_id=lambda wildcards: EXPERIMENT.benchmarks[wildcards.benchmark].hub_id,
        revision=lambda wildcards: EXPERIMENT.benchmarks[wildcards.benchmark].revision or "main",
        options=lambda wildcards: hub_options(EXPERIMENT.benchmarks[wildcards.benchmark].hub_config),


use rule take_dataset as take_benchmark with:
    """Copy a benchmark from a local file or folder."""
    output:
        folder=directory("<results>/benchmarks/{benchmark}/raw"),
    log:
        "<logs>/take_benchmark/{benchmark}.log",
    wildcard_constraints:
        benchmark=names_of(EXPERIMENT.benchmarks, "local"),
    params:
        kind="benchmark",
        path=lambda wildcards: EXPERIMENT.benchmarks[wildcards.benchmark].path,


rule generate_benchmark:
    """Generate held-out sums with exact answers."""
    output:
        folder=directory("<results>/benchmarks/{benchmark}/raw"),
    log:
        "<logs>/generate_benchmark/{benchmark}.log",
    benchmark:
        "<timings>/generate_benchmark/{benchmark}.tsv"
    wildcard_constraints:
        benchmark=names_of(EXPERIMENT.benchmarks, "arithmetic"),
    conda:
        "../envs/workflow.yaml"
    params:
        digits=lambda wildcards: EXPERIMENT.benchmarks[wildcards.benchmark].digits,
        rows=lambda wildcards: EXPERIMENT.benchmarks[wildcards.benchmark].rows,
        seed=EXPERIMENT.seed,
    shell:
        r"""
        python -m justrl data arithmetic benchmark \
            --digits {params.digits} \
            --rows {params.rows} \
            --seed {params.seed} \
            --output {output.folder:q} \
            2> >(log_to {log:q})
        """


use rule generate_task_dataset as generate_task_benchmark with:
    """Generate held-out questions of a reasoning-gym task."""
    output:
        folder=directory("<results>/benchmarks/{benchmark}/raw"),
    log:
        "<logs>/generate_task_benchmark/{benchmark}.log",
    wildcard_constraints:
        benchmark=names_of(EXPERIMENT.benchmarks, "reasoning_gym"),
    params:
        side="benchmark",
        task=lambda wildcards: EXPERIMENT.benchmarks[wildcards.benchmark].task,
        settings=lambda wildcards: json.dumps(EXPERIMENT.benchmarks[wildcards.benchmark].settings),
        rows=lambda wildcards: EXPERIMENT.benchmarks[wildcards.benchmark].rows,
        seed=EXPERIMENT.seed,


rule format_benchmark:
    """Convert a benchmark to question, answer and id; check the number of questions."""
    input:
        folder="<results>/benchmarks/{benchmark}/raw",
    output:
        questions="<results>/benchmarks/{benchmark}/questions.parquet",
    log:
        "<logs>/format_benchmark/{benchmark}.log",
    benchmark:
        "<timings>/format_benchmark/{benchmark}.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        rows=lambda wildcards: EXPERIMENT.benchmarks[wildcards.benchmark].rows or 0,
        options=benchmark_options,
    shell:
        r"""
        python -m justrl data benchmark \
            --name {wildcards.benchmark:q} \
            --input {input.folder:q} \
            --rows {params.rows} \
            --output {output.questions:q} \
            {params.options:q} \
            2> >(log_to {log:q})
        """
