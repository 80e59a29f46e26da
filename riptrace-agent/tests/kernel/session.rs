//! A loaded kernel side with one tracepoint, and plans made by hand.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use riptrace_agent::{
    plan::{CallRole, SitePlan, types::Upload},
    probe::{AttachmentId, Kernel, KernelOptions, ProbeError, Scope, SiteHandle},
    ring::RingReader,
};
use riptrace_common::{
    abi::program::{
        ACTION_FOLLOW, COUNT_ONE, COUNT_WORD, Counters, LIMIT_FIXED, LIMIT_ITEMS, LIMIT_STRING, Slot,
        TRACEPOINT_ENABLED, TYPE_BYTES, TYPE_FIRST, Tracepoint, Type, Window,
    },
    wire::{
        event::{Location, SiteInfo, Trigger},
        number::Address,
    },
};

use super::{record::Record, target::Target};

/// Loads the kernel side, or says loudly that the test is left out; in CI that is a failure.
pub(crate) fn kernel(options: &KernelOptions) -> Option<Kernel> {
    match Kernel::load(options) {
        Ok(kernel) => Some(kernel),
        Err(error @ ProbeError::NotPermitted { .. }) if std::env::var("CI").as_deref() != Ok("true") => {
            use std::io::Write as _;
            // Not `eprintln!`, which the test runner keeps to itself.
            let _ = writeln!(std::io::stderr(), "LEFT OUT, NOT TESTED: {error}");
            None
        }
        Err(error) => panic!("loading the kernel side: {error}"),
    }
}

pub(crate) struct Session {
    pub(crate) kernel: Kernel,
    pub(crate) ring: RingReader,
    pub(crate) image: u32,
    pub(crate) tracepoint: u32,
}

/// Enabled, no rate, no limit, the usual bounds.
pub(crate) fn tracepoint() -> Tracepoint {
    Tracepoint {
        flags: TRACEPOINT_ENABLED,
        max_depth: 4,
        max_string: 256,
        max_items: 64,
        max_bytes: 65_536,
        ..Tracepoint::default()
    }
}

impl Session {
    pub(crate) fn new(target: &Target, tracepoint: &Tracepoint) -> Option<Self> {
        Self::with(&KernelOptions::default(), target, tracepoint, &[target.pid()])
    }

    pub(crate) fn with(
        options: &KernelOptions,
        target: &Target,
        tracepoint: &Tracepoint,
        tgids: &[u32],
    ) -> Option<Self> {
        let mut kernel = kernel(options)?;
        let ring = kernel.ring().expect("the only reader");
        let image = kernel.add_image(&target.image()).expect("an image");
        let tracepoint = kernel.add_tracepoint(tracepoint, tgids).expect("a tracepoint");
        Some(Self { kernel, ring, image, tracepoint })
    }

    pub(crate) fn upload(&mut self, types: &[TypePlan]) {
        let mut upload = Upload::default();
        let mut slot = 0;
        for (index, plan) in types.iter().enumerate() {
            let ty = Type {
                bytes: plan.bytes,
                first_slot: slot,
                slots: plan.slots.len() as u32,
                flags: plan.flags,
            };
            upload.types.push((TYPE_FIRST + index as u32, ty));
            upload.slots.extend(plan.slots.iter().enumerate().map(|(n, s)| (slot + n as u32, *s)));
            slot += plan.slots.len() as u32;
        }
        self.kernel.upload(&upload).expect("an upload");
    }

    /// Arms the plans in the target's file.
    pub(crate) fn arm(
        &mut self,
        target: &Target,
        plans: &[SitePlan],
        scope: Scope,
    ) -> (Vec<SiteHandle>, AttachmentId) {
        self.arm_in(&target.path, plans, scope)
    }

    pub(crate) fn arm_in(
        &mut self,
        file: &Path,
        plans: &[SitePlan],
        scope: Scope,
    ) -> (Vec<SiteHandle>, AttachmentId) {
        let plans: Vec<&SitePlan> = plans.iter().collect();
        let sites = self.kernel.add_sites(self.tracepoint, self.image, &plans).expect("sites");
        let points: Vec<(u64, SiteHandle)> =
            plans.iter().zip(&sites).map(|(plan, site)| (plan.file_offset, *site)).collect();
        let attachment = self.kernel.attach(file, &points, scope).expect("attached");
        (sites, attachment)
    }

    pub(crate) fn records(&mut self) -> Vec<Record> {
        self.raw_records().iter().map(|bytes| Record::parse(bytes)).collect()
    }

    pub(crate) fn raw_records(&mut self) -> Vec<Bytes> {
        let mut out = Vec::new();
        while self.ring.drain(&mut out, 1000) != 0 {}
        out
    }

    /// The counters, after checking that every hit has one outcome.
    pub(crate) fn counters(&self) -> Counters {
        let counters = self.kernel.counters(self.tracepoint).expect("counters");
        let Counters { hits, emitted, filtered, throttled, dropped, failed, .. } = counters;
        assert_eq!(hits, emitted + filtered + throttled + dropped + failed, "{counters:?}");
        counters
    }
}

/// A type of the kernel's map; the first one of a list has index `TYPE_FIRST`.
#[derive(Clone, Default)]
pub(crate) struct TypePlan {
    pub(crate) bytes: u32,
    pub(crate) flags: u32,
    pub(crate) slots: Vec<Slot>,
}

/// A site at a function's first instruction, with registers alone.
pub(crate) fn site(target: &Target, function: &str, root_slots: Vec<Slot>) -> SitePlan {
    site_at(target, target.symbol(function), root_slots)
}

pub(crate) fn site_at(target: &Target, link_address: u64, root_slots: Vec<Slot>) -> SitePlan {
    let location = Location {
        file: Arc::from("target.go"),
        line: 1,
        function: Arc::from(""),
        pc: Address(link_address),
        inlined_into: None,
    };
    SitePlan {
        link_address,
        file_offset: target.executable.file_offset(link_address).expect("code lies in the file"),
        location: location.clone(),
        entry_address: link_address,
        candidates: Vec::new(),
        trigger: Trigger::Entry,
        call: CallRole::None,
        needs_entry: false,
        fault_address: None,
        branch: None,
        dictionary: None,
        contexts: None,
        condition: None,
        outputs: None,
        cleared_registers: 0,
        redacts: false,
        // Nothing is pushed yet: only the return address lies on the stack.
        cfa_from_sp: Some(8),
        windows: Vec::new(),
        root_bytes: riptrace_common::abi::program::REGISTER_BYTES,
        root_slots,
        variables: Vec::new(),
        info: SiteInfo {
            location,
            event: Trigger::Entry,
            instruction: String::new(),
            fast: false,
            entry: None,
            choice: Arc::from(""),
            variables: Vec::new(),
        },
    }
}

pub(crate) fn with_windows(mut plan: SitePlan, windows: Vec<Window>) -> SitePlan {
    let end = windows.iter().map(|window| window.root_offset + window.bytes.max(8)).max();
    plan.root_bytes = plan.root_bytes.max(end.unwrap_or(0));
    plan.windows = windows;
    plan
}

/// A pointer to one element.
pub(crate) fn pointer(word: u32, target: u32) -> Slot {
    Slot {
        word,
        target,
        repeat: 1,
        action: ACTION_FOLLOW,
        count_rule: COUNT_ONE,
        limit: LIMIT_FIXED,
        max_count: 1,
        deeper: 1,
        ..Slot::default()
    }
}

/// The words of a string.
pub(crate) fn string(word: u32, length: u32) -> Slot {
    Slot {
        word,
        count: length,
        target: TYPE_BYTES,
        repeat: 1,
        count_rule: COUNT_WORD,
        limit: LIMIT_STRING,
        ..Slot::default()
    }
}

/// The words of a slice.
pub(crate) fn slice(word: u32, length: u32, target: u32) -> Slot {
    Slot {
        word,
        count: length,
        target,
        repeat: 1,
        count_rule: COUNT_WORD,
        limit: LIMIT_ITEMS,
        deeper: 1,
        ..Slot::default()
    }
}
