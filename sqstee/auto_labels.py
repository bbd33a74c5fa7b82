"""Labels from a run's environment (batch system, Spark, Kubernetes, cron), by one table. Pure except for /proc.

Every line carries all labels, so the table is short: it has only labels that lead from a line back to its job.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# label, variable with its value, variable that must be set too ("" for none), meaning
TABLE = (
    ("slurm_job_id", "SLURM_JOB_ID", "", "Slurm: the job"),
    ("slurm_array_job_id", "SLURM_ARRAY_JOB_ID", "", "Slurm: the job array, by the number that sbatch and squeue show"),
    ("slurm_array_task_id", "SLURM_ARRAY_TASK_ID", "", "Slurm: the task of a job array"),
    ("slurm_procid", "SLURM_PROCID", "SLURM_STEP_ID", "Slurm: the rank of a process that srun started"),
    ("pbs_job_id", "PBS_JOBID", "", "PBS and Torque: the job"),
    ("pbs_array_id", "PBS_ARRAY_ID", "", "PBS: the job array"),
    ("pbs_array_index", "PBS_ARRAY_INDEX", "", "PBS: the index in a job array"),
    ("pbs_array_index", "PBS_ARRAYID", "", "Torque: the index in a job array"),
    ("lsf_job_id", "LSB_JOBID", "", "LSF: the job"),
    ("lsf_job_index", "LSB_JOBINDEX", "", "LSF: the index in a job array"),
    ("sge_job_id", "JOB_ID", "SGE_ROOT", "Grid Engine: the job"),
    ("sge_task_id", "SGE_TASK_ID", "SGE_ROOT", "Grid Engine: the task of a job array"),
    ("aws_batch_job_id", "AWS_BATCH_JOB_ID", "", "AWS Batch: the job"),
    ("aws_batch_array_index", "AWS_BATCH_JOB_ARRAY_INDEX", "", "AWS Batch: the index in a job array"),
    ("aws_batch_attempt", "AWS_BATCH_JOB_ATTEMPT", "", "AWS Batch: the attempt, from 1"),
    ("aws_batch_node_index", "AWS_BATCH_JOB_NODE_INDEX", "", "AWS Batch: the node of a multi-node parallel job"),
    ("spark_application_id", "SPARK_APPLICATION_ID", "", "Spark on Kubernetes: the application"),
    ("spark_executor_id", "SPARK_EXECUTOR_ID", "", "Spark on Kubernetes: the executor"),
    ("yarn_container_id", "CONTAINER_ID", "NM_HOST", "YARN, as under Spark: the container"),
    ("kubernetes_pod", "HOSTNAME", "KUBERNETES_SERVICE_HOST", "Kubernetes: the pod"),
    ("kubernetes_job_index", "JOB_COMPLETION_INDEX", "KUBERNETES_SERVICE_HOST", "Kubernetes: the index in a job"),
    ("airflow_dag_id", "AIRFLOW_CTX_DAG_ID", "", "Airflow: the DAG"),
    ("airflow_task_id", "AIRFLOW_CTX_TASK_ID", "", "Airflow: the task"),
    ("airflow_run_id", "AIRFLOW_CTX_DAG_RUN_ID", "", "Airflow: the DAG's run"),
    ("github_repository", "GITHUB_REPOSITORY", "GITHUB_ACTIONS", "GitHub Actions: the repository"),
    ("github_run_id", "GITHUB_RUN_ID", "GITHUB_ACTIONS", "GitHub Actions: the workflow's run"),
    ("github_run_attempt", "GITHUB_RUN_ATTEMPT", "GITHUB_ACTIONS", "GitHub Actions: the attempt, from 1"),
    ("github_job", "GITHUB_JOB", "GITHUB_ACTIONS", "GitHub Actions: the job in the workflow"),
    ("gitlab_project", "CI_PROJECT_PATH", "GITLAB_CI", "GitLab: the project"),
    ("gitlab_pipeline_id", "CI_PIPELINE_ID", "GITLAB_CI", "GitLab: the pipeline"),
    ("gitlab_job_id", "CI_JOB_ID", "GITLAB_CI", "GitLab: the job"),
    ("jenkins_job", "JOB_NAME", "JENKINS_URL", "Jenkins: the job, with its folders"),
    ("jenkins_build", "BUILD_NUMBER", "JENKINS_URL", "Jenkins: the build"),
)
STARTED_BY = ("started_by", "cron or at, if one of their daemons is a parent process")  # the one without a variable
_NOT_AN_INDEX = {("SGE_TASK_ID", "undefined"), ("LSB_JOBINDEX", "0")}  # values that mean: no array
_MOST_CHARACTERS = 128
_DAEMONS = {"cron": "cron", "crond": "cron", "fcron": "cron", "anacron": "cron", "atd": "at"}
_GENERATIONS = 3  # cron forks once before it starts a shell


def labels(environ: Mapping[str, str]) -> dict[str, str]:
    """The labels of an environment. Without TERM, cron may have started the process: its ancestors decide."""
    found: dict[str, str] = {}
    if not environ:
        return found
    for label, variable, also, _ in TABLE:
        value = environ.get(variable)
        if value and (not also or also in environ) and (variable, value) not in _NOT_AN_INDEX:
            found[label] = value[:_MOST_CHARACTERS]
    if "TERM" not in environ and not found:
        daemon = started_by(parents())
        if daemon:
            found[STARTED_BY[0]] = daemon
    return found


def started_by(names: Iterable[str]) -> str:
    """`cron` or `at` if one of these processes is its daemon, else empty."""
    return next((_DAEMONS[name.lower()] for name in names if name.lower() in _DAEMONS), "")


def parents() -> Iterable[str]:
    """The names of this process's ancestors, nearest first."""
    pid = "self"
    for generation in range(_GENERATIONS + 1):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                head, _, rest = file.read().rpartition(b")")
        except OSError:
            return
        if generation:
            yield head.partition(b"(")[2].decode(errors="replace")
        pid = rest.split()[1].decode()
        if pid in ("0", "1"):
            return
