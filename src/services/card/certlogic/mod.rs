//! CertLogic 1.3.3: the subset of JsonLogic with dates in which the EU's rules for health certificates are written
//! (ehn-dcc-development/eu-dcc-business-rules, `certlogic/specification`).
//!
//! An expression is read once, which is where whatever is wrong with its form is found, and then evaluated on any number
//! of data. Evaluating is pure, and bounded: an expression has up to [`NODES_MAX`] nodes, [`DEPTH_MAX`] deep, and takes
//! up to [`STEPS_MAX`] steps.
//!
//! Besides its value an evaluation tells until when that value holds while nothing but the clock moves: each comparison
//! of a time that is reckoned from the clock ([`CLOCK`]) with one that isn't turns at a moment that can be told.
//!
//! Narrower than the specification in two things, neither of which a public rule uses: what a reduction accumulates is
//! one value, no array, and the context of its lambda can't be had as a whole.

mod date;
mod evaluate;
mod read;

pub use evaluate::{Evaluation, Failed, Value};

/// Where the time of the evaluation stands in the data.
pub const CLOCK: &str = "external.validationClock";

/// Nodes of an expression.
pub const NODES_MAX: usize = 2_000;

/// How deep an expression nests.
pub const DEPTH_MAX: usize = 40;

/// Nodes that an evaluation visits, those of a reduction once an item.
pub const STEPS_MAX: u32 = 20_000;

/// What is wrong with an expression, and where in it, as a JSON pointer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Malformed {
    /// JSON pointer (RFC 6901) from the expression's root.
    pub at: String,
    /// Which rule of the specification it breaks.
    pub why: &'static str,
}

/// An expression of the right form.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression(Node);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Bool(bool),
    Integer(i64),
    Text(String),
    List(Vec<Node>),
    Var(Path),
    If(Box<[Node; 3]>),
    And(Vec<Node>),
    Not(Box<Node>),
    Equal(Box<[Node; 2]>),
    In(Box<[Node; 2]>),
    Add(Box<[Node; 2]>),
    Compare(Order, Vec<Node>),
    CompareTimes(Order, Vec<Node>),
    PlusTime { of: Box<Node>, amount: i64, unit: Unit },
    BirthDate(Box<Node>),
    Reduce(Box<[Node; 3]>),
    Part { of: Box<Node>, index: i64 },
}

/// A path into the data.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Path {
    text: String,
    /// Whether it leads into the context of a reduction's lambda.
    in_lambda: bool,
}

impl Path {
    fn is_clock(&self) -> bool {
        !self.in_lambda && self.text == CLOCK
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn holds<T: Ord>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Year,
    Month,
    Day,
    Hour,
}

/// What an expression looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access<'a> {
    /// The path, its parts separated by dots.
    pub path: &'a str,
    /// Whether it is the context of a reduction that it leads into.
    pub in_lambda: bool,
    /// Whether it is what a time is reckoned from, over a fixed number of days or hours.
    pub is_reckoned: bool,
}

impl Expression {
    /// Calls `see` for each data access.
    pub fn accesses<'a>(&'a self, see: &mut dyn FnMut(Access<'a>)) {
        fn walk<'a>(node: &'a Node, is_reckoned: bool, see: &mut dyn FnMut(Access<'a>)) {
            let mut all = |nodes: &'a [Node]| nodes.iter().for_each(|node| walk(node, false, see));
            match node {
                Node::Bool(_) | Node::Integer(_) | Node::Text(_) => {}
                Node::Var(path) => see(Access { path: &path.text, in_lambda: path.in_lambda, is_reckoned }),
                Node::List(nodes)
                | Node::And(nodes)
                | Node::Compare(_, nodes)
                | Node::CompareTimes(_, nodes) => all(nodes),
                Node::If(nodes) | Node::Reduce(nodes) => all(nodes.as_slice()),
                Node::Equal(nodes) | Node::In(nodes) | Node::Add(nodes) => all(nodes.as_slice()),
                Node::Not(node) | Node::BirthDate(node) | Node::Part { of: node, .. } => {
                    walk(node, false, see);
                }
                Node::PlusTime { of, unit, .. } => walk(of, matches!(unit, Unit::Day | Unit::Hour), see),
            }
        }
        walk(&self.0, false, see);
    }
}
