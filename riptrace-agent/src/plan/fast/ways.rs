//! A line with several ways in: where nothing cheap stands for all of them, each way is armed by itself.
//!
//! What leads to a stretch's first instruction and nowhere else is a tree: each of its instructions has one successor, and
//! all that can run before it is in the tree as well, or it is a leaf. Only a branch, which is a leaf, has another way. So
//! if every path of the tree is cut at one instruction, each execution of the line passes exactly one of those, and each
//! passage of one is an execution of the line; at a branch, if its flags lead there.

use std::collections::HashMap;

use iced_x86::{Instruction, InstructionInfoFactory};

use super::{
    Candidate, Placed, Question, Verdict, changes, placed_at, states,
    stretch::{Branch, Stretch, Walk, place_of},
};
use crate::{
    dwarf::{VariableLocation, VisibleVariable},
    plan::code::{Node, bytes_of, is_emulated, text_of},
};

/// Most addresses that are armed for one entry of a line: each takes a site of its own.
pub const MAX_WAYS: usize = 8;
/// Instructions of all ways, past which they are not followed further back.
const MAX_STEPS: usize = 256;

/// The ways to an instruction. None: there is one, or they are not all known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    steps: Vec<Step>,
    /// Those from which control comes to the instruction itself.
    last: Vec<usize>,
}

/// An instruction that leads to the entry and nowhere else, or a branch of which one way does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    instruction: Instruction,
    is_emulated: bool,
    branch: Option<Branch>,
    /// It is a branch, and its other way is another one to the entry.
    never_leaves: bool,
    /// Where it leads; `None`: to the stretch.
    next: Option<usize>,
    /// All from which control comes to it; none: not all are known, or may be armed.
    before: Vec<usize>,
}

/// One of several addresses that are armed for an entry.
#[derive(Clone, Debug)]
pub struct Way {
    /// The instruction.
    pub candidate: Candidate,
    /// It is a branch, of which one way leads to the entry.
    pub branch: Option<Branch>,
    /// The line is executed whichever way the branch goes, so that it traps no more often than the line is.
    pub never_leaves: bool,
    /// The variables with their places there.
    pub variables: Vec<VisibleVariable>,
    /// The dictionary's place there.
    pub dictionary: Option<VariableLocation>,
}

/// Follows the ways to the first instruction of a stretch that has been walked back to.
pub(super) fn of(walk: &mut Walk<'_>) -> Ways {
    let graph = walk.graph;
    let mut ways = Ways::default();
    // Where an indirect jump leads that could not be read, other ways may end.
    let Some(&first) = walk.nodes.first().filter(|_| !graph.has_unknown_jumps()) else { return ways };
    let mut nodes = Vec::new();
    ways.last = ways.put_before(walk, &mut nodes, first, None);
    let mut at = 0;
    while let Some(&node) = nodes.get(at)
        && nodes.len() < MAX_STEPS
    {
        if ways.steps[at].branch.is_none() {
            ways.steps[at].before = ways.put_before(walk, &mut nodes, node, Some(at));
        }
        at += 1;
    }
    let mut branches = HashMap::new();
    for (at, node) in nodes.into_iter().enumerate() {
        if let Some(other) = branches.insert(node, at) {
            ways.steps[at].never_leaves = true;
            ways.steps[other].never_leaves = true;
        }
    }
    ways
}

impl Ways {
    /// Takes everything from which control comes to an instruction, or nothing.
    fn put_before(
        &mut self,
        walk: &mut Walk<'_>,
        nodes: &mut Vec<Node>,
        to: Node,
        next: Option<usize>,
    ) -> Vec<usize> {
        let graph = walk.graph;
        if graph.roots().contains(&to) {
            return Vec::new();
        }
        let mut found = Vec::new();
        for &node in graph.predecessors(to).iter().filter(|&&node| graph.is_reachable(node)) {
            let branch = walk.branch(node, to);
            let leads_on = || graph.successors(node) == [to];
            // From the stretch straight back to it: a loop that nothing leaves.
            if walk.nodes.contains(&node)
                || branch.is_none() && (!leads_on() || walk.barrier(node, None).is_some())
            {
                return Vec::new();
            }
            found.push((node, branch));
        }
        let begin = self.steps.len();
        for (node, branch) in found {
            let instruction = *graph.instruction(node);
            let is_emulated = bytes_of(walk.reader, &instruction).is_some_and(is_emulated);
            nodes.push(node);
            let never_leaves = false;
            self.steps.push(Step {
                instruction,
                is_emulated,
                branch,
                never_leaves,
                next,
                before: Vec::new(),
            });
        }
        (begin..self.steps.len()).collect()
    }

    /// What runs from a step to the entry.
    fn path(&self, stretch: &Stretch, step: usize) -> Stretch {
        let steps = std::iter::successors(self.steps.get(step), |step| self.steps.get(step.next?));
        let instructions: Vec<Instruction> = steps
            .map(|step| step.instruction)
            .chain(stretch.instructions.iter().take(stretch.entry + 1).copied())
            .collect();
        let mut factory = InstructionInfoFactory::new();
        let place = |at: usize| {
            let before = instructions.get(..at)?.iter().rev();
            place_of(&mut factory, instructions.get(at)?, before)
        };
        Stretch {
            places: (0..instructions.len()).map(place).collect(),
            emulated: vec![false; instructions.len()],
            entry: instructions.len().saturating_sub(1),
            pointed_at: stretch.pointed_at.clone(),
            instructions,
            ..Stretch::default()
        }
    }
}

/// What was found for an entry.
#[derive(Default)]
pub(super) struct Found {
    /// One for each way in, by address; none: some way has nothing.
    pub(super) ways: Vec<Way>,
    /// Those that may not be armed.
    pub(super) refused: Vec<Candidate>,
}

/// Looks for one emulated instruction on each way in, the nearest one at which every wanted value is what it is at the
/// entry.
pub(super) fn choose(question: &Question<'_>) -> Found {
    let ways = &question.stretch.ways;
    let mut found = Found::default();
    let mut chosen: Vec<Way> = Vec::new();
    let mut work = ways.last.clone();
    let mut is_complete = !work.is_empty();
    while let Some(at) = work.pop() {
        let Some(step) = ways.steps.get(at) else { return Found::default() };
        match step.is_emulated.then(|| placed_before(question, at)) {
            Some(Ok(placed)) => {
                let candidate = step.candidate(Verdict::OneOfWays { readable: placed.readable });
                let Placed { variables, dictionary, .. } = placed;
                let (branch, never_leaves) = (step.branch, step.never_leaves);
                chosen.push(Way { candidate, branch, never_leaves, variables, dictionary });
            }
            other => {
                if let Some(Err(verdict)) = other {
                    found.refused.push(step.candidate(verdict));
                }
                is_complete &= !step.before.is_empty();
                work.extend(&step.before);
            }
        }
        if chosen.len() + work.len() > MAX_WAYS {
            is_complete = false;
            break;
        }
    }
    chosen.sort_by_key(|way| way.candidate.link_address);
    // Both ways of a branch lead to the entry.
    chosen.dedup_by(|later, earlier| {
        let is_both = later.is_other_way_of(earlier);
        if is_both {
            earlier.branch = None;
        }
        is_both
    });
    let has_twice = |pair: &[Way]| match pair {
        [one, other] => one.candidate.link_address == other.candidate.link_address,
        _ => false,
    };
    is_complete &= !chosen.windows(2).any(has_twice);
    for way in &chosen {
        if way.leads_elsewhere() && !question.at_branches {
            is_complete = false;
            found.refused.push(Candidate { verdict: Verdict::OtherWay, ..way.candidate.clone() });
        }
    }
    if is_complete {
        found.ways = chosen;
    }
    found
}

impl Step {
    fn candidate(&self, verdict: Verdict) -> Candidate {
        Candidate {
            link_address: self.instruction.ip(),
            instruction: text_of(&self.instruction),
            fast: self.is_emulated,
            verdict,
        }
    }
}

impl Way {
    /// How many of the wanted variables can be read there.
    pub(super) fn readable(&self) -> usize {
        match self.candidate.verdict {
            Verdict::OneOfWays { readable } => readable,
            _ => 0,
        }
    }

    /// Whether it is a branch, and may trap without an execution of the line.
    pub(super) fn leads_elsewhere(&self) -> bool {
        !self.never_leaves && self.branch.is_some_and(|branch| !branch.other_way_ends)
    }

    /// Whether the two are one branch, which leads to the entry whichever way it goes, with the same in the same places.
    fn is_other_way_of(&self, other: &Self) -> bool {
        let conditions = (self.branch.map(|one| one.condition), other.branch.map(|other| other.condition));
        self.candidate.link_address == other.candidate.link_address
            && matches!(conditions, (Some(one), Some(other)) if one ^ 1 == other)
            && self.variables == other.variables
            && self.dictionary == other.dictionary
    }
}

/// The variables in front of a step.
fn placed_before(question: &Question<'_>, step: usize) -> Result<Placed, Verdict> {
    let path = question.stretch.ways.path(question.stretch, step);
    let question = Question { stretch: &path, ..*question };
    placed_at(&question, &states(&question), &changes(&question), 0)
}

/// Why they are armed, in words.
pub(super) fn reason(ways: &[Way], at_entry: usize) -> String {
    let branches = ways.iter().filter(|way| way.leads_elsewhere()).count();
    let branches = match branches {
        0 => String::new(),
        1 => "; one of them a branch, which traps on its other way, too".to_owned(),
        count => format!("; {count} of them branches, which trap on their other ways, too"),
    };
    let both = match ways.iter().filter(|way| way.never_leaves && way.branch.is_some()).count() {
        0 => "",
        _ => "; a branch, whose other way leads to the line as well",
    };
    let readable = ways.iter().map(Way::readable).min().unwrap_or(0);
    let more = match readable.saturating_sub(at_entry) {
        0 => String::new(),
        more => format!(", {more} more readable"),
    };
    match ways.len() {
        1 => format!("armed where its ways in part: emulated{more}{branches}{both}"),
        count => format!("armed at its {count} ways in: emulated{more}{branches}{both}"),
    }
}
