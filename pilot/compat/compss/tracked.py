"""What programs ask PyCOMPSs's own tracker of objects for."""

from __future__ import annotations

from typing import Any

from pilot.compat.compss import application


class ObjectTracker:
    """The answers that tests of programs look at."""

    def is_tracked(self, obj: Any) -> bool:
        """Tell whether tasks have, or make, an object."""
        app = application.find()
        return app is not None and app.is_tracked(obj)

    def get_object_id(self, obj: Any) -> str:
        """Return the identity of an object that is tracked; empty: it is not."""
        return str(id(obj)) if self.is_tracked(obj) else ""

    @property
    def pending_to_synchronize(self) -> frozenset[str]:
        """The identities of all that is tracked, and not waited for."""
        app = application.find()
        if app is None:
            return frozenset()
        with app.lock:
            return frozenset(str(key) for key in app.tracker)


#: The one that programs import.
OT = ObjectTracker()
