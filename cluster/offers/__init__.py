"""Every change of the cluster as one offer. PURE.

What must never happen is impossible here by construction, not by care:

* **No oversubscription.** ``place`` claims with ``adjust`` and a minimum of 0, and ports
  with a set ``add``, in the offer that puts the task; nothing else ever lowers capacity.
* **No double placement.** The task's key must be absent (``expect`` 0).
* **No placement on an instance that left.** Registration, settings and liveness are ``reads``:
  they must be unchanged since the revision at which the scheduler saw ACTIVE, connected, and
  the attributes that a constraint asks for.
* **No constraint broken by a neighbour.** Where a constraint looks at the instance's other
  tasks, ``alone`` makes them a range condition.
* **A claim is released exactly once.** ``report`` of STOPPED carries the release, and
  stands on the revision of the status before it; after STOPPED no report is legal.
* **A report stands on the task it answers**, so nothing is reported of a task that is gone.
* **A service's index is exact.** Its line is put by the offer that places the task, and deleted
  by the report that it stopped: the same offer that releases the claim. So the lines are the
  tasks that hold something, a count of them is a range condition, and a stop wakes whoever
  counts. (Deleted only when the task is forgotten, hours later, the index would count the dead.)
  The one other offer that deletes a line is ``abandon``: its task is on an instance that is
  lost, is to stop there, and is to be replaced elsewhere before anybody can report.

``together`` makes one all-or-nothing offer of several.

Functions raise ``IllegalTransition`` where the tables have no such change.
"""

from cluster.offers.clusters import (
    change_cluster,
    change_task_definition,
    claim_token,
    create_cluster,
    delete_account_setting,
    delete_cluster,
    forget_token,
    put_account_setting,
    register_task_definition,
)
from cluster.offers.common import TOGETHER_TASKS_MAX, together
from cluster.offers.instances import (
    change_instance,
    change_settings,
    connect,
    forget_instance,
    register_instance,
    set_instance_status,
)
from cluster.offers.queue import change_queued, dequeue, enqueue
from cluster.offers.services import (
    Placing,
    change_service,
    close_service,
    create_service,
    forget_service,
    place_for_service,
    put_rollout,
)
from cluster.offers.slots import fill_slot, forget_slot
from cluster.offers.tasks import abandon, change_task, forget, place, report, stop, stopped

__all__ = [
    "TOGETHER_TASKS_MAX",
    "Placing",
    "abandon",
    "change_cluster",
    "change_instance",
    "change_queued",
    "change_service",
    "change_settings",
    "change_task",
    "change_task_definition",
    "claim_token",
    "close_service",
    "connect",
    "create_cluster",
    "create_service",
    "delete_account_setting",
    "delete_cluster",
    "dequeue",
    "enqueue",
    "fill_slot",
    "forget",
    "forget_instance",
    "forget_service",
    "forget_slot",
    "forget_token",
    "place",
    "place_for_service",
    "put_account_setting",
    "put_rollout",
    "register_instance",
    "register_task_definition",
    "report",
    "set_instance_status",
    "stop",
    "stopped",
    "together",
]
