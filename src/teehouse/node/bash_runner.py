"""Runner `bash`: the app is a script on the host, watched by a supervisor of its own (trust.md 14).

Rules:

1. There is one workload; it has the app's name, or "app".
2. While any process of the script lives, the app runs, as it does where systemd starts such a script; a script that
   fails takes what it started with it.
3. `stop` ends all processes, the script's and those of the pre-launch script.
4. The machine's restart, or a kill of supervisor and script alike, leaves "exited" with code 255, as with Docker.
"""

import time
from collections.abc import Callable
from pathlib import Path

from teehouse.base.files import write_atomic
from teehouse.node.jobs import Job, JobRecord, JobSpec
from teehouse.node.scripts import SHELL, Place, run_pre_launch, script_environment, shell
from teehouse.node.workload import ContainerState, WorkloadSpec, check_cvm_id, refusal

LOST_EXIT_CODE = 255
IMAGE = "bash"


class BashWorkload:
    """A `Workload` of runner `bash`. `now` tells UNIX seconds; `search_path` is the PATH scripts get."""

    def __init__(
        self,
        cvm_id: str,
        directory: Path,
        *,
        now: Callable[[], float] = time.time,
        search_path: str = "",
        shell_file: Path = SHELL,
    ) -> None:
        self.cvm_id = check_cvm_id(cvm_id)
        self.place = Place(directory)
        self._job = Job(self.place.root / "app")
        self._now = now
        self._search_path = search_path
        self._shell_file = shell_file

    async def start(self, spec: WorkloadSpec) -> None:
        """See `Workload.start`."""
        script = spec.app_compose.bash_script
        if not script:
            raise refusal(
                "workload.bash-script",
                "app-compose: member `bash_script`",
                expected="a script, as runner is bash",
                found="nothing",
            )
        if self._job.running():
            return
        program = shell(self._shell_file)
        await self.place.pre_launch.stop(0)  # of a start that a crash cut off
        self.place.make()
        environment = script_environment(spec, self.place.home, self._search_path)
        environment = await run_pre_launch(spec, self.place, environment, self._shell_file)
        try:
            await self._start_script(spec, program, script, environment)
        except BaseException:
            await self.place.pre_launch.stop(0)
            raise

    async def _start_script(
        self, spec: WorkloadSpec, program: str, script: str, environment: dict[str, str]
    ) -> None:
        path = self.place.root / "app.sh"
        write_atomic(path, script.encode())
        name = spec.app_compose.name or "app"
        await self._job.start(
            JobSpec(
                name=name,
                argv=(program, str(path)),
                cwd=self.place.home,
                log=self.place.log(name),
                environment=environment,
                log_bytes=spec.limits.log_bytes,
                log_files=spec.limits.log_files,
            )
        )

    async def stop(self, deadline: float) -> None:
        """See `Workload.stop`."""
        await self._job.stop(deadline)
        await self.place.pre_launch.stop(0)

    async def remove(self) -> None:
        """See `Workload.remove`."""
        await self._job.remove()
        await self.place.pre_launch.remove()
        self.place.remove()

    async def state(self) -> list[ContainerState]:
        """See `Workload.state`."""
        record = self._job.record()
        if record is None:
            return []
        now = self._now()
        if self._job.running():
            return [_container(record, "running", f"Up {duration(now - record.started)}", None)]
        code = LOST_EXIT_CODE if record.exit_code is None else record.exit_code
        ended = record.started if record.finished is None else record.finished
        return [_container(record, "exited", f"Exited ({code}) {duration(now - ended)} ago", code)]

    async def adopt(self) -> bool:
        """See `Workload.adopt`."""
        return self._job.running()


def _container(record: JobRecord, state: str, status: str, code: int | None) -> ContainerState:
    return ContainerState(
        name=record.name,
        image=IMAGE,
        state="running" if state == "running" else "exited",
        status=status,
        exit_code=code,
        service=record.name,
        command="bash app.sh",
        created=int(record.started),
    )


def duration(seconds: float) -> str:
    """A time span in the words of the Docker Engine's status line."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, round(seconds / 3600), whole // 86400
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    if days < 14:
        return f"{days} days"
    if days < 60:
        return f"{days // 7} weeks"
    return f"{days // 30} months" if days < 730 else f"{days // 365} years"
