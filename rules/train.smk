"""GRPO training as a chain of segments, each a job that fits a queue's time limit.

Inputs: base model, training data, previous segment. Outputs: <results>/runs/{run}/segments/{step}/, with the model at
that step and the metrics of the steps that led to it. The full training state is in <results>/runs/{run}/work, which is
undeclared on purpose: Snakemake deletes declared files before it retries a job, and a retried job must find its last
saved state. Inputs are ancient(), so a touched file never causes retraining.
"""


localrules:
    write_run,
    write_hardware,
    merge_metrics,
    write_first_run,
    merge_first_thousand,


rule write_run:
    """Record the settings that determine a run's training."""
    output:
        "<results>/runs/{run}/run.json",
    log:
        "<logs>/write_run/{run}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        content=run_file,
    shell:
        "printf '%s\n' {params.content:q} > {output:q} 2> {log:q}"


# Separate from the run, so that moving a run to other nodes during training does not retrain it.
use rule write_run as write_hardware with:
    """Record the hardware settings of training jobs, which do not change results."""
    output:
        "<results>/hardware.json",
    log:
        "<logs>/write_hardware.log",
    params:
        content=literal(json.dumps(HARDWARE.as_dict(), sort_keys=True)),


rule resolve_verl_config:
    """Translate a run into verl's configuration, validated by verl."""
    input:
        run="<results>/runs/{run}/run.json",
        hardware="<results>/hardware.json",
    output:
        "<results>/runs/{run}/verl.yaml",
    log:
        "<logs>/resolve_verl_config/{run}.log",
    benchmark:
        "<timings>/resolve_verl_config/{run}.tsv"
    conda:
        "../envs/train.yaml"
    params:
        hardware=literal(json.dumps(HARDWARE.as_dict(), sort_keys=True)),
    shell:
        r"""
        python -m justrl verl config \
            --run {input.run:q} \
            --hardware {input.hardware:q} \
            --output {output:q} \
            2> >(log_to {log:q})
        """


rule preflight:
    """Check a run before it uses a GPU; its first job also checks the node."""
    input:
        run="<results>/runs/{run}/run.json",
        hardware="<results>/hardware.json",
        model=base_model,
        data=training_data,
        engine=engine_config,
    output:
        "<results>/runs/{run}/preflight.json",
    log:
        "<logs>/preflight/{run}.log",
    benchmark:
        "<timings>/preflight/{run}.tsv"
    conda:
        "../envs/train.yaml"
    resources:
        nodes=1,
    params:
        hardware=literal(json.dumps(HARDWARE.as_dict(), sort_keys=True)),
    shell:
        r"""
        python -m justrl preflight \
            --run {input.run:q} \
            --model {input.model:q} \
            --data {input.data:q} \
            --hardware {input.hardware:q} \
            --output {output:q} \
            2> >(log_to {log:q})
        """


rule train_segment:
    """Train one segment of a run; resumes from the last saved state."""
    input:
        run=ancient("<results>/runs/{run}/run.json"),
        hardware=ancient("<results>/hardware.json"),
        preflight=ancient("<results>/runs/{run}/preflight.json"),
        model=ancient(base_model),
        data=ancient(training_data),
        previous=ancient(previous_segment),
        engine=ancient(engine_config),
    output:
        model=directory("<results>/runs/{run}/segments/{step}/model"),
        metrics="<results>/runs/{run}/segments/{step}/metrics.jsonl",
    log:
        "<logs>/train_segment/{run}_{step}.log",
    benchmark:
        "<timings>/train_segment/{run}_{step}.tsv"
    conda:
        "../envs/train.yaml"
    threads: HARDWARE.cpus_per_node
    resources:
        **SEVERAL_NODES,
        nodes=HARDWARE.nodes,
        gpu=HARDWARE.nodes * HARDWARE.gpus_per_node,
        cpus_per_task=HARDWARE.cpus_per_node,
        mem_mb=HARDWARE.memory_per_node_gb * 1000,
        runtime=segment_runtime,
        slurm_extra=segment_options,
        # Not a param: a finished segment's params must not change, or it would be retrained.
        export=export_of,
    params:
        work=subpath(output.model, ancestor=3),
        start=start_step,
    shell:
        r"""
        # The executor takes Slurm's own from jobs that start their steps themselves.
        SLURM_JOB_NUM_NODES={resources.nodes} python -m justrl gpus --count {resources.gpu} -- \
            python -m justrl train segment \
            --run-file {input.run:q} \
            --model {input.model:q} \
            --data {input.data:q} \
            --hardware {input.hardware:q} \
            --start-step {params.start} \
            --to-step {wildcards.step} \
            --work-dir {params.work:q}/work \
            --model-out {output.model:q} \
            --metrics-out {output.metrics:q} \
            --export {resources.export} \
            --wait-for-owner-minutes 20 \
            2> >(log_to {log:q})
        """


rule merge_metrics:
    """Concatenate the metrics of all segments of a run, with each step once."""
    input:
        segments=segment_metrics,
        # With ancient() inputs, Snakemake misses a missing file when one of them is renewed. These inputs make it check
        # here.
        run="<results>/runs/{run}/run.json",
        hardware="<results>/hardware.json",
        preflight="<results>/runs/{run}/preflight.json",
        model=base_model,
        data=training_data,
        engine=engine_config,
    output:
        "<results>/runs/{run}/metrics.jsonl",
    log:
        "<logs>/merge_metrics/{run}.log",
    conda:
        "../envs/workflow.yaml"
    shell:
        "python -m justrl report metrics --output {output:q} {input.segments:q} 2> >(log_to {log:q})"


use rule write_run as write_first_run with:
    """Record the settings of a run, for its first 1,000 steps."""
    output:
        "<results>/first_1000/{run}/run.json",
    log:
        "<logs>/write_first_run/{run}.log",


use rule merge_metrics as merge_first_thousand with:
    """Concatenate the metrics of the segments of a run's first 1,000 steps."""
    input:
        segments=of(LAYOUT.first_thousand_segments, "run"),
        run="<results>/first_1000/{run}/run.json",
    output:
        "<results>/first_1000/{run}/metrics.jsonl",
    log:
        "<logs>/merge_first_thousand/{run}.log",
