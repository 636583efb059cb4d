//! FLOWS: the answers that a reader gets while other processors write the slot.

use std::cell::Cell;
use std::sync::atomic::AtomicBool;

use loom::model::Builder;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use netpol_common::addr::Addr;
use netpol_common::flow::{OPEN, Step};
use netpol_common::flow_table::{self, SlotMemory, ports};
use netpol_common::ids::{Direction, Epoch, IfIndex, Nanos, Protocol, RuleId};
use netpol_common::keys::{FlowKey, FlowValue};
use netpol_common::maps::CurrentFlow;

const NOW: Nanos = Nanos(7);

/// A processor, by the order of all its loads and stores.
#[derive(Clone, Copy, Debug)]
enum Processor {
    X86,
    Arm64,
}

impl Processor {
    const fn load(self) -> Ordering {
        match self {
            Self::X86 => Ordering::Acquire,
            Self::Arm64 => Ordering::Relaxed,
        }
    }

    const fn store(self) -> Ordering {
        match self {
            Self::X86 => Ordering::Release,
            Self::Arm64 => Ordering::Relaxed,
        }
    }
}

/// A step of the protocol that a broken program omits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Omitted {
    Nothing,
    /// The writer does not make the number odd.
    OddNumber,
    /// The reader does not check whether the number is odd.
    OddCheck,
    /// The reader does not read the mark again after the number.
    SecondMark,
    /// The reader does not read the number again.
    LastNumber,
}

/// A flow. Each of these fields is a memory location of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    mark: u64,
    ports: u32,
    epoch: u32,
    rule: u32,
    local: u32,
}

const OLD: Flow = Flow { mark: 1, ports: 1, epoch: 1, rule: 11, local: 1 };
/// Another flow with the same mark.
const ALIKE: Flow = Flow { mark: 1, ports: 2, epoch: 1, rule: 12, local: 2 };
/// Another flow that differs from the old one in its mark only.
const OTHER_MARK: Flow = Flow { mark: 2, ports: 1, epoch: 1, rule: 13, local: 1 };
/// The old flow after another decision.
const RENEWED: Flow = Flow { epoch: 2, rule: 14, ..OLD };

impl Flow {
    fn key(&self) -> FlowKey {
        let remote = Addr::from_v4([10, 0, 0, 1]);
        FlowKey::new(IfIndex(1), remote, self.ports, Protocol::TCP, FlowKey::AT_POD)
    }

    fn value(&self) -> FlowValue {
        let facts = [Direction::Egress.to_wire(), OPEN, 0];
        FlowValue::new(NOW, Epoch(self.epoch), RuleId(self.rule), facts)
    }

    fn local(&self) -> Addr {
        Addr::from_v4_word(self.local)
    }
}

/// The memory of a slot.
struct Memory {
    mark: AtomicU64,
    number: AtomicU32,
    ports: AtomicU32,
    epoch: AtomicU32,
    rule: AtomicU32,
    local: AtomicU32,
    lock: Mutex<()>,
}

impl Memory {
    fn of(flow: Flow) -> Self {
        Self {
            mark: AtomicU64::new(flow.mark),
            number: AtomicU32::new(0),
            ports: AtomicU32::new(flow.ports),
            epoch: AtomicU32::new(flow.epoch),
            rule: AtomicU32::new(flow.rule),
            local: AtomicU32::new(flow.local),
            lock: Mutex::new(()),
        }
    }
}

/// The access of a program to the memory of a slot.
#[derive(Clone, Copy)]
struct Slot<'a> {
    /// Missing for the other slots of the bucket, which are free.
    memory: Option<&'a Memory>,
    program: &'a Program,
}

/// One run of a program.
struct Program {
    processor: Processor,
    omitted: Omitted,
    first_mark: Cell<Option<u64>>,
    first_number: Cell<Option<u32>>,
}

impl Program {
    fn new(processor: Processor, omitted: Omitted) -> Self {
        let (first_mark, first_number) = (Cell::new(None), Cell::new(None));
        Self { processor, omitted, first_mark, first_number }
    }

    fn slot<'a>(&'a self, memory: &'a Memory) -> Slot<'a> {
        Slot { memory: Some(memory), program: self }
    }

    /// The rule of the flow, if the table has it as current for this question.
    fn ask(&self, memory: &Memory, question: Question, reads: Reads) -> Option<u32> {
        let Question { flow, sender, epoch } = question;
        let step =
            Step { now: NOW, epoch: Epoch(epoch), direction: Direction::Egress, tcp_flags: 0 };
        let slots = |index| Slot { memory: (index == 0).then_some(memory), program: self };
        let sender = sender.map(Addr::from_v4_word);
        let (key, sender) = (flow.key(), sender.as_ref());
        let found = match reads {
            Reads::LockFree => flow_table::current_flow(slots, flow.mark, &key, sender, &step),
            Reads::Locked => {
                let _lock = memory.lock.lock().unwrap();
                flow_table::current_under_lock(slots, flow.mark, &key, sender, &step)
            }
            Reads::LockForgotten => {
                flow_table::current_under_lock(slots, flow.mark, &key, sender, &step)
            }
        };
        match found {
            CurrentFlow::Yes { rule: RuleId(rule), .. } => Some(rule),
            CurrentFlow::No | CurrentFlow::Absent => None,
        }
    }

    fn write(&self, memory: &Memory, flow: Flow) {
        let _lock = memory.lock.lock().unwrap();
        let slot = self.slot(memory);
        flow_table::write(slot, flow.mark, &flow.key(), &flow.value(), Some(&flow.local()));
    }

    fn renew(&self, memory: &Memory, flow: Flow) {
        let _lock = memory.lock.lock().unwrap();
        flow_table::renew(self.slot(memory), &flow.value());
    }

    fn evict(&self, memory: &Memory) {
        let _lock = memory.lock.lock().unwrap();
        flow_table::free(self.slot(memory));
    }
}

impl Slot<'_> {
    fn load(self, cell: impl FnOnce(&Memory) -> &AtomicU32) -> u32 {
        cell(self.memory.unwrap()).load(self.program.processor.load())
    }

    fn store(self, cell: impl FnOnce(&Memory) -> &AtomicU32, value: u32) {
        cell(self.memory.unwrap()).store(value, self.program.processor.store());
    }
}

impl SlotMemory for Slot<'_> {
    fn mark(self) -> u64 {
        let Some(memory) = self.memory else { return 0 };
        let Program { processor, omitted, first_mark, .. } = self.program;
        if let (Omitted::SecondMark, Some(mark)) = (omitted, first_mark.get()) {
            return mark;
        }
        let mark = memory.mark.load(processor.load());
        first_mark.set(Some(mark));
        mark
    }

    fn set_mark(self, mark: u64) {
        self.memory.unwrap().mark.store(mark, self.program.processor.store());
    }

    fn number(self) -> u32 {
        let Program { omitted, first_number, .. } = self.program;
        if let (Omitted::LastNumber, Some(number)) = (omitted, first_number.get()) {
            return number;
        }
        let number = self.load(|memory| &memory.number);
        first_number.set(Some(number));
        if *omitted == Omitted::OddCheck { number & !1 } else { number }
    }

    fn set_number(self, number: u32) {
        if self.program.omitted != Omitted::OddNumber || number.is_multiple_of(2) {
            self.store(|memory| &memory.number, number);
        }
    }

    fn ports(self) -> u32 {
        self.load(|memory| &memory.ports)
    }

    fn remote(self) -> Addr {
        OLD.key().remote
    }

    fn set_key(self, key: &FlowKey) {
        self.store(|memory| &memory.ports, ports(key));
    }

    fn flow(self) -> FlowValue {
        let (epoch, rule) = (self.load(|memory| &memory.epoch), self.load(|memory| &memory.rule));
        Flow { epoch, rule, ..OLD }.value()
    }

    fn set_flow(self, flow: &FlowValue) {
        self.store(|memory| &memory.epoch, flow.epoch.0);
        self.store(|memory| &memory.rule, flow.rule.0);
    }

    fn local(self) -> Addr {
        Addr::from_v4_word(self.load(|memory| &memory.local))
    }

    fn set_local(self, local: &Addr) {
        let [.., word] = *local.words();
        self.store(|memory| &memory.local, word);
    }

    fn fence() {}
}

/// How a reader accesses the slot.
#[derive(Clone, Copy, Debug)]
enum Reads {
    LockFree,
    Locked,
    /// As a reader that holds the lock, but without it.
    LockForgotten,
}

/// The question of a reader.
#[derive(Clone, Copy, Debug)]
struct Question {
    flow: Flow,
    sender: Option<u32>,
    epoch: u32,
}

/// What a writer or user space does to a slot that holds [`OLD`].
#[derive(Clone, Copy, Debug)]
enum Scenario {
    /// A writer puts this flow in its place.
    Replace(Flow),
    /// A writer puts this flow in its place, and then the old one again.
    ReplaceAndBack(Flow),
    /// A writer evicts the flow, and another one takes its slot.
    EvictAndReplace(Flow),
    /// The flow is decided again.
    Renew,
    /// User space frees the slot while the flow is decided again.
    FreeAndRenew,
}

const SCENARIOS: [Scenario; 7] = [
    Scenario::Replace(ALIKE),
    Scenario::Replace(OTHER_MARK),
    Scenario::ReplaceAndBack(ALIKE),
    Scenario::EvictAndReplace(ALIKE),
    Scenario::EvictAndReplace(OTHER_MARK),
    Scenario::Renew,
    Scenario::FreeAndRenew,
];

impl Scenario {
    /// The flows that the slot ever holds.
    fn flows(self) -> Vec<Flow> {
        match self {
            Self::Replace(flow) | Self::ReplaceAndBack(flow) | Self::EvictAndReplace(flow) => {
                vec![OLD, flow]
            }
            Self::Renew | Self::FreeAndRenew => vec![OLD, RENEWED],
        }
    }

    /// The questions of readers: for each flow, a packet from any address, and one from the address of the other flow.
    fn questions(self) -> Vec<Question> {
        let flows = self.flows();
        let of = |flow: Flow| {
            let others = flows.iter().filter(move |other| other.local != flow.local);
            let senders = others.map(|other| Some(other.local)).chain([None]);
            senders.map(move |sender| Question { flow, sender, epoch: flow.epoch })
        };
        flows.iter().copied().flat_map(of).collect()
    }

    fn write(self, memory: &Memory, program: &Program) {
        match self {
            Self::Replace(flow) => program.write(memory, flow),
            Self::ReplaceAndBack(flow) => {
                program.write(memory, flow);
                program.write(memory, OLD);
            }
            Self::EvictAndReplace(flow) => {
                program.evict(memory);
                program.write(memory, flow);
            }
            Self::Renew | Self::FreeAndRenew => program.renew(memory, RENEWED),
        }
    }
}

/// Whether a reader ever gets an answer that is true of no flow that the slot holds in the course of a scenario.
fn is_ever_misled(
    scenario: Scenario,
    processor: Processor,
    reads: Reads,
    omitted: Omitted,
) -> bool {
    scenario
        .questions()
        .into_iter()
        .any(|question| misleads(scenario, processor, reads, omitted, question))
}

fn misleads(
    scenario: Scenario,
    processor: Processor,
    reads: Reads,
    omitted: Omitted,
    question: Question,
) -> bool {
    let true_rules: Vec<u32> = scenario
        .flows()
        .into_iter()
        .filter(|flow| (flow.mark, flow.ports) == (question.flow.mark, question.flow.ports))
        .filter(|flow| flow.epoch == question.epoch)
        .filter(|flow| question.sender.is_none_or(|sender| sender == flow.local))
        .map(|flow| flow.rule)
        .collect();
    let is_misled = std::sync::Arc::new(AtomicBool::new(false));
    let found = std::sync::Arc::clone(&is_misled);
    let mut model = Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let memory = Arc::new(Memory::of(OLD));
        let others = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || scenario.write(&memory, &Program::new(processor, omitted)))
        };
        let user_space = matches!(scenario, Scenario::FreeAndRenew).then(|| {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
                memory.mark.compare_exchange(OLD.mark, 0, success, failure).ok();
            })
        });
        let rule = Program::new(processor, omitted).ask(&memory, question, reads);
        if rule.is_some_and(|rule| !true_rules.contains(&rule)) {
            found.store(true, Ordering::Relaxed);
        }
        others.join().unwrap();
        if let Some(user_space) = user_space {
            user_space.join().unwrap();
        }
    });
    is_misled.load(Ordering::Relaxed)
}

#[test]
fn a_reader_without_a_lock_is_never_misled_on_x86() {
    for scenario in SCENARIOS {
        let is_misled = is_ever_misled(scenario, Processor::X86, Reads::LockFree, Omitted::Nothing);
        assert!(!is_misled, "{scenario:?}");
    }
}

#[test]
fn a_reader_with_the_lock_is_never_misled_on_arm64() {
    for scenario in SCENARIOS {
        let is_misled = is_ever_misled(scenario, Processor::Arm64, Reads::Locked, Omitted::Nothing);
        assert!(!is_misled, "{scenario:?}");
    }
}

/// The models can fail.
#[test]
fn a_reader_is_misled_without_a_lock_on_arm64_and_with_a_forgotten_lock_on_x86() {
    for (processor, reads) in
        [(Processor::Arm64, Reads::LockFree), (Processor::X86, Reads::LockForgotten)]
    {
        let is_misled = SCENARIOS
            .into_iter()
            .any(|scenario| is_ever_misled(scenario, processor, reads, Omitted::Nothing));
        assert!(is_misled, "{processor:?} {reads:?}");
    }
}

#[test]
fn no_step_of_the_protocol_can_be_omitted() {
    for omitted in [Omitted::OddNumber, Omitted::OddCheck, Omitted::SecondMark, Omitted::LastNumber]
    {
        let is_misled = SCENARIOS
            .into_iter()
            .any(|scenario| is_ever_misled(scenario, Processor::X86, Reads::LockFree, omitted));
        assert!(is_misled, "{omitted:?}");
    }
}

/// A protocol that leaves the number odd would be safe, and useless.
#[test]
fn after_a_write_the_flow_is_found() {
    loom::model(|| {
        let memory = Memory::of(OLD);
        for flow in [ALIKE, OLD, OTHER_MARK] {
            Program::new(Processor::X86, Omitted::Nothing).write(&memory, flow);
            for reads in [Reads::LockFree, Reads::Locked] {
                let question = Question { flow, sender: Some(flow.local), epoch: flow.epoch };
                let program = Program::new(Processor::X86, Omitted::Nothing);
                assert_eq!(program.ask(&memory, question, reads), Some(flow.rule));
            }
        }
    });
}
