//! Task management (RFC 7143, sections 11.5 and 11.6): every function is answered, within a bounded time.
//!
//! A task that still collects data is dropped. A read is forgotten. A write that was handed to the owner of the volume
//! may have a Seq: the function waits until the write is answered as completed, and ABORT TASK then says that there is no
//! such task: initiators take "complete" as "it has not been done". If that takes longer than the
//! configured time, the function is answered and the write's late completion is dropped; it cannot land over a later
//! write, because the owner carries writes out in the order in which they were submitted.

use reprise_scsi::{LunNumber, UnitAttention};
use reprise_types::Mono;

use crate::conn::{CloseReason, Connection, Output, Phase, ResetScope};
use crate::pdu::{Bhs, Reject, op, sn_before};
use crate::task::{State, TaskTag};

/// Functions under way at a time; above, they are answered with "function rejected".
const PENDING_MAX: usize = 16;

mod function {
    pub(super) const ABORT_TASK: u8 = 1;
    pub(super) const ABORT_TASK_SET: u8 = 2;
    pub(super) const CLEAR_ACA: u8 = 3;
    pub(super) const CLEAR_TASK_SET: u8 = 4;
    pub(super) const LOGICAL_UNIT_RESET: u8 = 5;
    pub(super) const TARGET_WARM_RESET: u8 = 6;
    pub(super) const TARGET_COLD_RESET: u8 = 7;
    pub(super) const TASK_REASSIGN: u8 = 8;
}

mod response {
    pub(super) const COMPLETE: u8 = 0;
    pub(super) const NO_TASK: u8 = 1;
    pub(super) const NO_LUN: u8 = 2;
    pub(super) const NO_REASSIGN: u8 = 4;
    pub(super) const NOT_SUPPORTED: u8 = 5;
    pub(super) const REJECTED: u8 = 255;
}

/// A function that waits for writes.
pub(crate) struct Pending {
    itt: u32,
    waits_for: Vec<TaskTag>,
    /// It is about one task: where that completes, there is nothing left to abort.
    single: bool,
    answer: u8,
    cold: bool,
    pub(crate) deadline: Mono,
}

impl Connection {
    pub(crate) fn task_management(&mut self, now: Mono, bhs: &Bhs) {
        if bhs.data_len() > 0 {
            return self.fail(bhs, Reject::Protocol);
        }
        if self.management.len() >= PENDING_MAX {
            return self.management_answer(bhs.itt(), response::REJECTED);
        }
        let itt = bhs.itt();
        let lun = bhs.lun();
        let unit = LunNumber::decode(lun).and_then(|number| match &self.phase {
            Phase::Full(session) => session.luns.as_ref()?.get(number).map(|unit| (number, unit.volume)),
            _ => None,
        });
        let function = bhs.flags() & 0x7f;
        let needs_unit = (function::ABORT_TASK_SET..=function::LOGICAL_UNIT_RESET).contains(&function);
        if needs_unit && function != function::CLEAR_ACA && unit.is_none() {
            return self.management_answer(itt, response::NO_LUN);
        }
        let scope = unit.map(|(lun, volume)| ResetScope::Unit { lun, volume });
        match function {
            function::ABORT_TASK => match self.abort_task(bhs) {
                Some(tags) => {
                    self.abort(now, itt, tags, false);
                    self.management.iter_mut().filter(|pending| pending.itt == itt).for_each(|p| p.single = true);
                }
                None => self.management_answer(itt, response::NO_TASK),
            },
            function::ABORT_TASK_SET => {
                let tags = self.tags(|task_lun| task_lun == lun);
                self.abort(now, itt, tags, false);
            }
            function::CLEAR_TASK_SET | function::LOGICAL_UNIT_RESET => {
                let reset = function == function::LOGICAL_UNIT_RESET;
                let attention = if reset { UnitAttention::LunReset } else { UnitAttention::CommandsCleared };
                if let Some(scope) = scope {
                    if reset {
                        self.raise(scope, attention);
                    }
                    self.outputs.push_back(Output::Reset { scope, attention, cold: false });
                }
                let tags = self.tags(|task_lun| task_lun == lun);
                self.abort(now, itt, tags, false);
            }
            function::TARGET_WARM_RESET | function::TARGET_COLD_RESET => {
                let cold = function == function::TARGET_COLD_RESET;
                let attention = UnitAttention::TargetReset;
                self.raise(ResetScope::Target, attention);
                self.outputs.push_back(Output::Reset { scope: ResetScope::Target, attention, cold });
                let tags = self.tags(|_| true);
                self.abort(now, itt, tags, cold);
            }
            function::TASK_REASSIGN => self.management_answer(itt, response::NO_REASSIGN),
            _ => self.management_answer(itt, response::NOT_SUPPORTED),
        }
    }

    /// The task of ABORT TASK as a list of one; an empty list where the command never came and counts as aborted.
    fn abort_task(&mut self, bhs: &Bhs) -> Option<Vec<TaskTag>> {
        let (referenced, ref_cmd_sn) = (bhs.get32(20), bhs.get32(32));
        if let Some(task) = self.tasks.by_itt_mut(referenced) {
            // A tag that was used again since means that the task referred to has ended.
            let same = task.lun == bhs.lun() && (task.immediate || task.cmd_sn == ref_cmd_sn || ref_cmd_sn == 0);
            return same.then(|| vec![task.tag]);
        }
        // One connection delivers in order, so a command within the window that did not come will not come.
        let to_come = !sn_before(ref_cmd_sn, self.exp_cmd_sn) && sn_before(ref_cmd_sn, bhs.get32(24));
        to_come.then(Vec::new)
    }

    fn tags(&self, of_lun: impl Fn([u8; 8]) -> bool) -> Vec<TaskTag> {
        self.tasks.iter().filter(|task| of_lun(task.lun)).map(|task| task.tag).collect()
    }

    /// Drops the tasks, waits for the writes among them, answers.
    fn abort(&mut self, now: Mono, itt: u32, tags: Vec<TaskTag>, cold: bool) {
        let waits_for = self.drop_tasks(tags);
        if waits_for.is_empty() {
            return self.management_done(itt, response::COMPLETE, cold);
        }
        let deadline = now.plus_millis(self.config.abort_timeout_ms);
        let answer = response::COMPLETE;
        self.management.push(Pending { itt, waits_for, single: false, answer, cold, deadline });
    }

    /// Drops tasks and returns those that may not be dropped: writes that were submitted.
    fn drop_tasks(&mut self, tags: Vec<TaskTag>) -> Vec<TaskTag> {
        let mut kept = Vec::new();
        for tag in tags {
            let Some(task) = self.tasks.get_mut(tag) else { continue };
            if task.submitted_write() {
                task.aborting = true;
                kept.push(tag);
                continue;
            }
            let submitted = matches!(task.state, State::Submitted { .. });
            let waited_for = task.aborting;
            let itt = task.itt;
            self.forget_segment_of(tag);
            self.tasks.remove(tag);
            self.remember_stray(itt);
            if submitted {
                self.outputs.push_back(Output::Abort { tag });
            }
            if waited_for {
                self.management_task_ended(tag);
            }
        }
        kept
    }

    fn raise(&mut self, scope: ResetScope, attention: UnitAttention) {
        let Phase::Full(session) = &mut self.phase else { return };
        match (scope, &session.luns) {
            (ResetScope::Unit { lun, .. }, _) => session.nexus.raise(lun, attention),
            (ResetScope::Target, Some(luns)) => session.nexus.raise_all(luns, attention),
            (ResetScope::Target, None) => {}
        }
    }

    /// Another session reset a unit or the target: tasks are dropped without an answer, the initiator learns of it
    /// by the unit attention. Writes that were submitted are answered as completed.
    pub fn external_reset(&mut self, scope: ResetScope, attention: UnitAttention, cold: bool) {
        if cold {
            return self.close(CloseReason::ColdReset);
        }
        let tags: Vec<TaskTag> = match scope {
            ResetScope::Target => self.tags(|_| true),
            ResetScope::Unit { lun, .. } => self.tags(|field| LunNumber::decode(field) == Some(lun)),
        };
        let had_tasks = !tags.is_empty();
        let kept = self.drop_tasks(tags);
        for tag in kept {
            if let Some(task) = self.tasks.get_mut(tag)
                && !self.management.iter().any(|pending| pending.waits_for.contains(&tag))
            {
                task.aborting = false;
            }
        }
        // CLEAR TASK SET concerns only initiators that had commands in the set.
        if had_tasks || attention != UnitAttention::CommandsCleared {
            self.raise(scope, attention);
        }
    }

    /// A write that functions wait for was answered.
    pub(crate) fn management_task_ended(&mut self, tag: TaskTag) {
        for pending in self.management.iter_mut().filter(|pending| pending.waits_for.contains(&tag)) {
            pending.waits_for.retain(|waited| *waited != tag);
            if pending.single {
                pending.answer = response::NO_TASK;
            }
        }
        self.finish_management(|pending| pending.waits_for.is_empty());
    }

    pub(crate) fn expire_management(&mut self, now: Mono) {
        let late: Vec<TaskTag> = self
            .management
            .iter()
            .filter(|pending| pending.deadline <= now)
            .flat_map(|pending| pending.waits_for.iter().copied())
            .collect();
        for tag in late {
            self.tasks.remove(tag);
            self.management.iter_mut().for_each(|pending| pending.waits_for.retain(|waited| *waited != tag));
        }
        self.finish_management(|pending| pending.waits_for.is_empty());
    }

    fn finish_management(&mut self, done: impl Fn(&Pending) -> bool) {
        while let Some(index) = self.management.iter().position(&done) {
            let pending = self.management.remove(index);
            self.management_done(pending.itt, pending.answer, pending.cold);
        }
    }

    fn management_done(&mut self, itt: u32, code: u8, cold: bool) {
        self.management_answer(itt, code);
        if cold {
            self.close(CloseReason::ColdReset);
        }
    }

    fn management_answer(&mut self, itt: u32, code: u8) {
        let mut bhs = Bhs::reply(op::TMF_RESPONSE, 0x80, itt);
        bhs.0[2] = code;
        self.send_pdu(bhs, [], true);
    }
}
