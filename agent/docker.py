"""Containers at a Docker engine, through its API.

What is known of a container is what the engine says of it, found by a name that only one container
can have, and a note in the container's folder, ``docker.json``, that says what the engine cannot: its
id before it was started (so that one that is gone has vanished, and is not made again), which attempt
is meant, why it was refused.

A container is created, then noted, then started: an agent that dies in between finds it by its
name, and goes on. It is not polled: the engine's stream of events tells of each end and of each change
of health, and after every gap in the stream all that run are looked at.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import trio
from structlog.typing import FilteringBoundLogger

from agent import docker_spec as spec
from agent.cgroups import Cgroups
from agent.docker_api import DockerApi, DockerAway, DockerError, DockerRefused, DockerTimeout
from agent.docker_spec import Image, Unfit
from agent.folder import container_folder
from agent.model import ContainerState, LocalTask, Phase
from agent.supervisor import write_json
from cluster.records import ContainerDefinition

RETRY_S = 1.0
LOOK_AGAIN_S = 60.0
"""A running container is looked at so often even if no event tells of it."""
EXIT_NOT_STARTED = 128
IMAGES_PULLED_MAX = 10_000
"""Images that the behaviour ``once`` remembers; the oldest are forgotten, and pulled again."""
_EVENTS = ("die", "destroy", "health_status")


class Pull(StrEnum):
    """When an image is pulled."""

    DEFAULT = "default"
    """Each time; where that fails, the image that is there will do."""
    ALWAYS = "always"
    """Each time; where that fails, the task does."""
    ONCE = "once"
    """If this agent never pulled it before, or it is not there any more."""
    PREFER_CACHED = "prefer-cached"
    """If it is not there."""


class _Failed(Exception):
    """A container that does not start, with its reason in ECS's form."""

    def __init__(self, reason: str, exit_code: int | None = None) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class DockerRuntime:
    """Runs containers at the engine behind ``api``. ``folder`` is the agent's."""

    def __init__(
        self,
        api: DockerApi,
        folder: Path,
        instance: str,
        *,
        wall: Callable[[], float],
        log: FilteringBoundLogger,
        pull: Pull = Pull.DEFAULT,
        environment: Mapping[str, str] | None = None,
        cgroups: Cgroups | None = None,
        credentials: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._api = api
        self._folder = folder.resolve()
        self._instance = instance
        self._wall = wall
        self._log = log
        self._pull_behaviour = pull
        self._environment = dict(environment or {})
        self._cgroups = cgroups
        self._credentials = dict(credentials or {})
        self._watched: dict[tuple[str, str], trio.Event] = {}
        self._pulling: dict[tuple[str, str], trio.CancelScope] = {}
        self._pull_locks: dict[str, trio.Lock] = {}

    async def run(self) -> None:
        """Listen to the engine's events, for as long as the agent lives."""
        filters = {
            "type": ["container"],
            "label": [f"{spec.INSTANCE}={self._instance}"],
            "event": list(_EVENTS),
        }
        is_told = False
        while True:
            try:
                await self._api.events(filters, self._hear)
                is_told = False
            except DockerError as error:
                if not is_told:
                    self._log.warning("docker.events_lost", reason=str(error))
                is_told = isinstance(error, DockerAway)
            await trio.sleep(RETRY_S)

    async def inspect(self, task: str, container: str) -> ContainerState:
        note = self._note(task, container)
        if "refused" in note:
            return ContainerState(
                phase=Phase.STOPPED,
                failed_to_start=True,
                exit_code=note["refused"].get("exitCode"),
                reason=note["refused"]["reason"],
                stopped_at=note["refused"]["at"],
                runtime_id=note.get("id"),
                **_pull_times(note),
            )
        with _faults_as_oserror():
            found = await self._api.inspect(note.get("id") or spec.container_name(task, container))
        attempt = int(note.get("attempt", 0))
        if found is None:
            if "id" not in note:
                return ContainerState(**_pull_times(note))
            why = "ContainerVanishedError: the Docker engine does not have it any more"
            return ContainerState(
                phase=Phase.STOPPED,
                attempt=attempt,
                runtime_id=note["id"],
                reason=why,
                stopped_at=self._vanished_at(task, container, note),
                **_pull_times(note),
            )
        state = replace(spec.state_of(found), attempt=attempt, **_pull_times(note))
        if state.phase is Phase.STOPPED and note.get("after") == found["State"]["FinishedAt"]:
            return ContainerState(attempt=attempt, runtime_id=state.runtime_id)  # prepared, not started yet
        return state

    async def start(self, local: LocalTask, container: str, attempt: int = 0) -> None:
        known = await self.inspect(local.id, container)
        if known.attempt > attempt or (known.attempt == attempt and known.phase is not Phase.CREATED):
            return
        try:
            with _faults_as_oserror():
                if attempt:
                    await self._start_again(local, container, attempt)
                else:
                    await self._start_first(local, container)
        except _Failed as failed:
            refused = {"reason": str(failed), "exitCode": failed.exit_code, "at": self._wall()}
            self._write_note(local.id, container, refused=refused)

    async def signal(self, task: str, container: str, *, kill: bool) -> bool:
        pulling = self._pulling.get((task, container))
        if pulling is not None:
            pulling.cancel()
            return True
        state = await self.inspect(task, container)
        if state.phase is not Phase.RUNNING:
            return state.phase is Phase.STOPPED
        assert state.runtime_id is not None
        with _faults_as_oserror():
            found = await self._api.inspect(state.runtime_id)
            if found is None:
                return True
            signal = "SIGKILL" if kill else found["Config"].get("StopSignal") or spec.SIGNAL_DEFAULT
            try:
                await self._api.kill(state.runtime_id, signal)
            except DockerRefused as refused:
                if refused.status not in (404, 409):  # it ended meanwhile
                    raise
        return True

    async def changed(self, task: str, container: str, known: ContainerState) -> ContainerState:
        while True:
            event = self._watched.setdefault((task, container), trio.Event())
            try:
                state = await self.inspect(task, container)
            except OSError:
                await trio.sleep(RETRY_S)
                continue
            if state != known or state.phase is not Phase.RUNNING:
                return state
            with trio.move_on_after(LOOK_AGAIN_S):
                await event.wait()

    async def remove(self, local: LocalTask) -> None:
        with _faults_as_oserror():
            for container in local.containers:
                await self._api.remove(spec.container_name(local.id, container.name))
            for volume in spec.own_volumes(local):
                await self._api.remove_volume(volume)
        if self._cgroups is not None:
            await trio.to_thread.run_sync(self._cgroups.remove, local.id)

    # -- starting -------------------------------------------------------------------------------

    async def _start_first(self, local: LocalTask, name: str) -> None:
        container = local.container(name)
        found = await self._api.inspect(spec.container_name(local.id, name))
        if found is None:
            try:
                await self._provide_image(local, container)
                container_id = await self._create(local, container)
            except Unfit as unfit:
                raise _Failed(f"CannotCreateContainerError: {unfit}") from None
        else:
            container_id = found["Id"]
        # From here on it may run: if it is gone it has vanished, and is not made again.
        self._write_note(local.id, name, id=container_id)
        await self._start_by_id(container_id)

    async def _start_again(self, local: LocalTask, name: str, attempt: int) -> None:
        note = self._note(local.id, name)
        found = await self._api.inspect(note["id"])
        if found is None:
            return  # inspect says that it has vanished
        if note.get("attempt", 0) != attempt:
            self._write_note(local.id, name, attempt=attempt, after=found["State"]["FinishedAt"])
        await self._start_by_id(note["id"])

    async def _start_by_id(self, container_id: str) -> None:
        try:
            await self._api.start(container_id)
        except DockerRefused as refused:
            found = await self._api.inspect(container_id)
            code = found["State"]["ExitCode"] if found else None
            reason = f"CannotStartContainerError: Error response from daemon: {refused}"
            raise _Failed(reason, code or EXIT_NOT_STARTED) from None
        except DockerTimeout as timeout:
            await self._discard(container_id, timeout, "running")

    async def _create(self, local: LocalTask, container: ContainerDefinition) -> str:
        parent = ""
        if self._cgroups is not None:
            self._cgroups.make_task(local)
            parent = self._cgroups.path(local.id)
        name = spec.container_name(local.id, container.name)
        config = spec.create_config(
            local,
            container,
            instance=self._instance,
            cgroup_parent=parent,
            environment=self._environment,
        )
        try:
            for volume in spec.volumes(local):
                await self._api.create_volume(volume)
            return await self._api.create(name, config)
        except DockerRefused as refused:
            raise _Failed(f"CannotCreateContainerError: Error response from daemon: {refused}") from None
        except DockerTimeout as timeout:
            await self._discard(name, timeout, "created")
            raise

    async def _discard(self, container: str, timeout: DockerTimeout, status: str) -> None:
        """Make sure that what was asked for too long ago never runs; only then it has failed."""
        await self._api.remove(container, force=True)
        raise _Failed(f"DockerTimeoutError: Could not transition to {status}; {timeout}") from None

    # -- images ---------------------------------------------------------------------------------

    async def _provide_image(self, local: LocalTask, container: ContainerDefinition) -> None:
        """Have the container's image here, by the agent's pull behaviour. Raises ``_Failed``."""
        spec.check_fit(local, container)
        image = Image.parse(container.image)
        async with self._pull_locks.setdefault(str(image), trio.Lock()):
            behaviour = self._pull_behaviour
            if behaviour in (Pull.ONCE, Pull.PREFER_CACHED):
                was_pulled = behaviour is Pull.PREFER_CACHED or str(image) in self._pulled()
                if was_pulled and await self._api.image(str(image)) is not None:
                    return
            await self._pull(local, container, image)

    async def _pull(self, local: LocalTask, container: ContainerDefinition, image: Image) -> None:
        where = (local.id, container.name)
        self._write_note(*where, pullStartedAt=self._wall())
        failed: DockerError | None = None
        with trio.CancelScope() as scope:
            self._pulling[where] = scope
            try:
                await self._api.pull(image.name, image.tag, self._credentials.get(image.registry))
            except (DockerRefused, DockerTimeout) as error:
                failed = error
            finally:
                del self._pulling[where]
        self._write_note(*where, pullStoppedAt=self._wall())
        if scope.cancelled_caught:
            raise _Failed("CannotPullContainerError: the task was stopped while its image was pulled")
        if failed is None:
            self._remember_pulled(str(image))
            self._log.info("image.pulled", image=str(image))
            return
        if self._pull_behaviour is not Pull.ALWAYS and await self._api.image(str(image)) is not None:
            self._log.warning("image.cached_used", image=str(image), reason=str(failed))
            return
        if isinstance(failed, DockerTimeout):
            raise _Failed(f"DockerTimeoutError: Could not transition to pulled; {failed}")
        raise _Failed(f"CannotPullContainerError: Error response from daemon: {failed}")

    def _pulled(self) -> list[str]:
        try:
            return list(json.loads((self._folder / "docker-images.json").read_text("utf-8"))["pulled"])
        except (OSError, ValueError, KeyError):
            return []

    def _remember_pulled(self, image: str) -> None:
        pulled = [each for each in self._pulled() if each != image]
        kept = [*pulled, image][-IMAGES_PULLED_MAX:]
        write_json(str(self._folder / "docker-images.json"), {"pulled": kept})

    # -- notes and events -------------------------------------------------------------------------

    def _hear(self, event: Mapping[str, Any]) -> None:
        """Wake who waits for a container; ``{}``: the stream has just begun, so wake everybody."""
        if not event:
            events, self._watched = self._watched, {}
            for each in events.values():
                each.set()
            return
        told = event.get("Actor", {}).get("Attributes", {})
        waiting = self._watched.pop((told.get(spec.TASK, ""), told.get(spec.CONTAINER, "")), None)
        if waiting is not None:
            waiting.set()

    def _note(self, task: str, container: str) -> dict[str, Any]:
        file = container_folder(self._folder, task, container) / "docker.json"
        try:
            note = json.loads(file.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise OSError(errno.EIO, f"{file} is damaged: {error}") from error
        return note if isinstance(note, dict) else {}

    def _write_note(self, task: str, container: str, **changes: Any) -> None:
        folder = container_folder(self._folder, task, container)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(str(folder / "docker.json"), {**self._note(task, container), **changes})

    def _vanished_at(self, task: str, container: str, note: Mapping[str, Any]) -> float:
        """Return when it was first missed: what is reported of it must not change."""
        if "vanishedAt" not in note:
            self._write_note(task, container, vanishedAt=self._wall())
            note = self._note(task, container)
        return float(note["vanishedAt"])


def _pull_times(note: Mapping[str, Any]) -> dict[str, Any]:
    return {"pull_started_at": note.get("pullStartedAt"), "pull_stopped_at": note.get("pullStoppedAt")}


@contextmanager
def _faults_as_oserror() -> Iterator[None]:
    """Let what the engine did not do be tried again, as whatever else the machine refuses."""
    try:
        yield
    except DockerAway:
        raise
    except DockerError as error:
        raise OSError(errno.EIO, f"Docker: {error}") from error


def stop_all(socket: Path, instance: str, patience_s: float) -> int:
    """Stop every container of an agent that does not run itself; return how many ran.

    They stay where they are: the agent's next life reports how they ended. An engine that is away
    runs nothing that could be stopped.
    """

    async def stop() -> int:
        api = DockerApi(socket)
        try:
            found = await api.containers([f"{spec.INSTANCE}={instance}"])
            running = [each["Id"] for each in found if each["State"] == "running"]
            async with trio.open_nursery() as nursery:
                for container in running:
                    nursery.start_soon(api.stop, container, patience_s)
            return len(running)
        except DockerAway:
            return 0
        finally:
            await api.aclose()

    return trio.run(stop)
