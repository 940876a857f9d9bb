"""Foreign-key joins: what the three steps say to each other.

The left table's rows and the right table's meet in the task of the right key, and the result belongs to the left key:

1. `ForeignSubscribe`, in the task of the left key, turns changes of the left table into *subscriptions*: messages to
   the task of the foreign key, which is in columns of their own (`foreign_columns`), null where there is none.
2. `ForeignMatch`, in the task of the right key, keeps subscriptions and right rows, and *answers* when either changes:
   a message to the task of the left key.
3. `ForeignResolve`, again in the task of the left key, lets only the newest subscription's answers through.

What makes it exact:

- Every change of the left table has a `VERSION`, larger than all before it in its partition. Messages of one left
  key to one task arrive in order; those through different tasks do not. An answer to an older version than the newest
  that was seen of its key is stale, whenever it comes.
- A row that moves to another foreign key always gets an answer from there, if only that there is no match: that
  answer takes the old match away. The task of the old key is told to forget, and says nothing.
- An answer of a task is about what it knew at its flush, and answers of a task arrive in their order.
"""

from __future__ import annotations

import enum


class Instruction(enum.IntEnum):
    """What a subscription asks for."""

    SUBSCRIBE = 0
    """A new row, or a row with another foreign key: answer in any case."""
    RENEW = 1
    """A new row under the same foreign key: answer when there is a result, or was one."""
    LEAVE = 2
    """The row has moved to another foreign key: forget it."""
    DELETE = 3
    """The row is gone, or (inner) has no foreign key any more: forget it, and answer that there is no result."""
