"""The mode that policies decide under (learned, static or shadow): durable, and the same in every process."""

from __future__ import annotations

from services.backends.base import StateStore
from services.policies.modes import PolicySwitch
from services.types import PolicyMode

KEY = "policy_mode"
DEFAULT = PolicyMode.LEARNED


class StoredMode:
    """Keeps the switch of this process in the stored mode."""

    def __init__(self, state: StateStore, switch: PolicySwitch, shared: bool) -> None:
        """shared: whether other processes may set the mode too."""
        self._state = state
        self._switch = switch
        self._shared = shared

    @property
    def value(self) -> PolicyMode:
        """The last mode known to this process."""
        return self._switch.mode

    async def load(self) -> None:
        """Switch to the stored mode. Raises StorageFailed or TimeoutError; then the last known mode stays."""
        mode = await self._state.get(KEY) or DEFAULT
        if mode != self._switch.mode:
            self._switch.mode = mode

    async def follow(self) -> None:
        """Call `load` if another process may have set the mode."""
        if self._shared:
            await self.load()

    async def set(self, mode: str) -> None:
        """Set the mode; it is durable and active when this returns. Raises StorageFailed when it could not be
        stored."""
        await self._state.set(KEY, mode)
        self._switch.mode = mode
