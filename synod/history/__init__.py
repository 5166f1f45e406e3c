"""Recorded histories of a journal's clients, and the check of them.

``Recorder`` writes what clients saw, ``load`` reads it back, ``check`` judges it;
``python -m synod.history FILE...`` does both from the command line. The format is in
``docs/history-format.md``. The judge shares no code with the journal it judges.
"""

from __future__ import annotations

from synod.history.check import check
from synod.history.format import History, HistoryInvalid, load
from synod.history.record import Recorder
from synod.history.report import Report, Rule, Violation

__all__ = ["History", "HistoryInvalid", "Recorder", "Report", "Rule", "Violation", "check", "load"]
