//! Evaluates expressions on data.

use std::borrow::Cow;

use serde_json::Value as Json;

use super::{Expression, Node, Order, Path, STEPS_MAX, Unit, date};

/// What an expression evaluates to.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// Nothing: also whatever the data doesn't have.
    Null,
    /// True or false.
    Bool(bool),
    /// An integer.
    Integer(i64),
    /// A text.
    Text(Cow<'a, str>),
    /// An array, an object or a fraction of the data.
    Data(&'a Json),
    /// An array of the expression.
    List(Vec<Value<'a>>),
    /// A time.
    Time(Moment),
}

/// A time, and whether it goes with the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    ms: i64,
    moves: bool,
}

/// Why an expression has no value on these data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failed {
    /// An operand is of a type that the operation doesn't take.
    #[error("{0}")]
    Type(&'static str),
    /// It is over [`STEPS_MAX`].
    #[error("the evaluation may take {STEPS_MAX} steps")]
    TooLong,
}

impl<'a> Value<'a> {
    fn of(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::String(text) => Self::Text(Cow::Borrowed(text)),
            Json::Number(number) => number.as_i64().map_or(Self::Data(json), Self::Integer),
            Json::Array(_) | Json::Object(_) => Self::Data(json),
        }
    }

    /// True or false, where it is one of them: a time and a fraction are neither.
    pub fn truth(&self) -> Option<bool> {
        match self {
            Self::Null => Some(false),
            Self::Bool(value) => Some(*value),
            Self::Integer(value) => Some(*value != 0),
            Self::Text(text) => Some(!text.is_empty()),
            Self::List(items) => Some(!items.is_empty()),
            Self::Data(Json::Array(items)) => Some(!items.is_empty()),
            Self::Data(Json::Object(members)) => Some(!members.is_empty()),
            Self::Data(_) | Self::Time(_) => None,
        }
    }

    /// The value as JSON; a time as text.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => (*value).into(),
            Self::Integer(value) => (*value).into(),
            Self::Text(text) => text.as_ref().into(),
            Self::Data(json) => (*json).clone(),
            Self::List(items) => items.iter().map(Value::to_json).collect(),
            Self::Time(at) => date::text(at.ms).into(),
        }
    }

    /// Equality of scalars, without coercion; nothing else equals anything.
    fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(left), Self::Bool(right)) => left == right,
            (Self::Integer(left), Self::Integer(right)) => left == right,
            (Self::Text(left), Self::Text(right)) => left == right,
            _ => false,
        }
    }

    fn step(&self, part: &str) -> Self {
        let index = || part.parse::<usize>().ok();
        let found = match self {
            Self::Data(Json::Object(members)) => members.get(part).map(Self::of),
            Self::Data(Json::Array(items)) => index().and_then(|index| items.get(index)).map(Self::of),
            Self::List(items) => index().and_then(|index| items.get(index)).cloned(),
            _ => None,
        };
        found.unwrap_or(Self::Null)
    }

    /// The items of an array.
    fn items(self) -> Result<Vec<Self>, Failed> {
        match self {
            Self::List(items) => Ok(items),
            Self::Data(Json::Array(items)) => Ok(items.iter().map(Self::of).collect()),
            _ => Err(Failed::Type("the operand must be an array")),
        }
    }
}

/// What is evaluated on, and what has been seen of it.
#[derive(Debug)]
pub struct Evaluation<'a> {
    data: &'a Json,
    /// Milliseconds since 1970; what the data tell of the clock says the same.
    clock_ms: i64,
    steps: u32,
    turns_at_ms: Option<i64>,
}

/// In a reduction: the item, and what has come together.
struct Fold<'a, 'f> {
    current: &'f Value<'a>,
    accumulator: &'f Value<'a>,
}

impl<'a> Evaluation<'a> {
    /// Evaluates on these data at this time.
    pub fn on(data: &'a Json, clock_ms: i64) -> Self {
        Self { data, clock_ms, steps: 0, turns_at_ms: None }
    }

    /// Grants all steps again, to another expression.
    pub fn rest(&mut self) {
        self.steps = 0;
    }

    /// When a comparison that was made turns, if nothing but the clock moves: until then all that was evaluated has the
    /// value that it had.
    pub fn turns_at_ms(&self) -> Option<i64> {
        self.turns_at_ms
    }

    /// Evaluates an expression.
    ///
    /// # Errors
    /// It has no value on these data.
    pub fn evaluate(&mut self, expression: &'a Expression) -> Result<Value<'a>, Failed> {
        self.node(&expression.0, None)
    }

    fn node(&mut self, node: &'a Node, fold: Option<&Fold<'a, '_>>) -> Result<Value<'a>, Failed> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(Failed::TooLong);
        }
        match node {
            Node::Bool(value) => Ok(Value::Bool(*value)),
            Node::Integer(value) => Ok(Value::Integer(*value)),
            Node::Text(text) => Ok(Value::Text(Cow::Borrowed(text))),
            Node::List(nodes) => Ok(Value::List(self.nodes(nodes, fold)?)),
            Node::Var(path) => Ok(self.look_up(path, fold)),
            Node::If(parts) => {
                let [guard, then, otherwise] = &**parts;
                let chosen = if self.truth(guard, fold)? { then } else { otherwise };
                self.node(chosen, fold)
            }
            Node::And(nodes) => {
                let mut last = Value::Null;
                for node in nodes {
                    last = self.node(node, fold)?;
                    if !truth_of(&last)? {
                        break;
                    }
                }
                Ok(last)
            }
            Node::Not(node) => Ok(Value::Bool(!self.truth(node, fold)?)),
            Node::Equal(nodes) => {
                let [left, right] = self.pair(nodes, fold)?;
                Ok(Value::Bool(left.equals(&right)))
            }
            Node::In(nodes) => {
                let [item, items] = self.pair(nodes, fold)?;
                Ok(Value::Bool(items.items()?.iter().any(|other| item.equals(other))))
            }
            Node::Add(nodes) => self.add(nodes, fold),
            Node::Compare(order, nodes) => self.compare(*order, nodes, fold),
            Node::CompareTimes(order, nodes) => self.compare_times(*order, nodes, fold),
            Node::PlusTime { of, amount, unit } => self.plus_time(of, *amount, *unit, fold),
            Node::BirthDate(of) => match self.node(of, fold)? {
                Value::Text(text) => time(date::birth_date(&text), false),
                _ => Err(Failed::Type("the operand of dccDateOfBirth must be a text")),
            },
            Node::Reduce(parts) => self.reduce(parts, fold),
            Node::Part { of, index } => self.part(of, *index, fold),
        }
    }

    fn nodes(&mut self, nodes: &'a [Node], fold: Option<&Fold<'a, '_>>) -> Result<Vec<Value<'a>>, Failed> {
        nodes.iter().map(|node| self.node(node, fold)).collect()
    }

    fn pair(&mut self, nodes: &'a [Node; 2], fold: Option<&Fold<'a, '_>>) -> Result<[Value<'a>; 2], Failed> {
        let [left, right] = nodes;
        Ok([self.node(left, fold)?, self.node(right, fold)?])
    }

    fn truth(&mut self, node: &'a Node, fold: Option<&Fold<'a, '_>>) -> Result<bool, Failed> {
        truth_of(&self.node(node, fold)?)
    }

    fn look_up(&self, path: &Path, fold: Option<&Fold<'a, '_>>) -> Value<'a> {
        let mut parts = path.text.split('.').filter(|part| !part.is_empty());
        let start = match fold.filter(|_| path.in_lambda) {
            None => Value::of(self.data),
            Some(fold) => match parts.next() {
                Some("current") => fold.current.clone(),
                Some("accumulator") => fold.accumulator.clone(),
                _ => Value::Null,
            },
        };
        parts.fold(start, |value, part| value.step(part))
    }

    fn add(&mut self, nodes: &'a [Node; 2], fold: Option<&Fold<'a, '_>>) -> Result<Value<'a>, Failed> {
        match self.pair(nodes, fold)? {
            [Value::Integer(left), Value::Integer(right)] => {
                let sum = left.checked_add(right);
                sum.map(Value::Integer).ok_or(Failed::Type("the sum must be below 2^63"))
            }
            _ => Err(Failed::Type("the operands of + must be integers")),
        }
    }

    fn compare(
        &mut self,
        order: Order,
        nodes: &'a [Node],
        fold: Option<&Fold<'a, '_>>,
    ) -> Result<Value<'a>, Failed> {
        let integer = |value| match value {
            Value::Integer(value) => Ok(value),
            _ => Err(Failed::Type("integers can be compared, and with after and before times")),
        };
        let integers = self.nodes(nodes, fold)?.into_iter().map(integer).collect::<Result<Vec<_>, _>>()?;
        Ok(Value::Bool(integers.is_sorted_by(|left, right| order.holds(left, right))))
    }

    fn compare_times(
        &mut self,
        order: Order,
        nodes: &'a [Node],
        fold: Option<&Fold<'a, '_>>,
    ) -> Result<Value<'a>, Failed> {
        let moment = |value| match value {
            Value::Time(at) => Ok(at),
            _ => Err(Failed::Type("times can be compared, which plusTime and dccDateOfBirth make")),
        };
        let moments = self.nodes(nodes, fold)?.into_iter().map(moment).collect::<Result<Vec<_>, _>>()?;
        for (left, right) in moments.iter().zip(moments.iter().skip(1)) {
            self.note(*left, *right);
        }
        Ok(Value::Bool(moments.is_sorted_by(|left, right| order.holds(&left.ms, &right.ms))))
    }

    /// Keeps in mind when two times will have passed each other.
    fn note(&mut self, left: Moment, right: Moment) {
        let ahead_ms = match (left.moves, right.moves) {
            (true, false) => right.ms.saturating_sub(left.ms),
            (false, true) => left.ms.saturating_sub(right.ms),
            // Neither moves, or both do, and as far from each other as they are.
            _ => return,
        };
        if ahead_ms >= 0 {
            // They meet in so much time, which turns some comparisons; being past each other, a millisecond later, turns
            // the others.
            let at = self.clock_ms.saturating_add(ahead_ms.max(1));
            self.turns_at_ms = Some(self.turns_at_ms.map_or(at, |before| before.min(at)));
        }
    }

    fn plus_time(
        &mut self,
        of: &'a Node,
        amount: i64,
        unit: Unit,
        fold: Option<&Fold<'a, '_>>,
    ) -> Result<Value<'a>, Failed> {
        let moves = matches!(of, Node::Var(path) if path.is_clock());
        match self.node(of, fold)? {
            Value::Text(text) => time(date::parse(&text).and_then(|ms| date::plus(ms, amount, unit)), moves),
            _ => Err(Failed::Type("the first operand of plusTime must be a text")),
        }
    }

    fn reduce(&mut self, parts: &'a [Node; 3], fold: Option<&Fold<'a, '_>>) -> Result<Value<'a>, Failed> {
        let [over, lambda, initial] = parts;
        let over = self.node(over, fold)?;
        let mut accumulator = self.node(initial, fold)?;
        if matches!(over, Value::Null) {
            return Ok(accumulator);
        }
        for current in over.items()? {
            let fold = Fold { current: &current, accumulator: &accumulator };
            accumulator = self.node(lambda, Some(&fold))?;
            // An array that holds the last one twice, a few dozen times over, would fill the memory.
            if matches!(accumulator, Value::List(_)) {
                return Err(Failed::Type("what a reduction accumulates must be one value"));
            }
        }
        Ok(accumulator)
    }

    fn part(&mut self, of: &'a Node, index: i64, fold: Option<&Fold<'a, '_>>) -> Result<Value<'a>, Failed> {
        let text = match self.node(of, fold)? {
            Value::Null => return Ok(Value::Null),
            Value::Text(text) => text,
            _ => return Err(Failed::Type("the first operand of extractFromUVCI must be a text")),
        };
        let text = text.strip_prefix("URN:UVCI:").unwrap_or(&text);
        let part = usize::try_from(index).ok().and_then(|index| text.split(['/', '#', ':']).nth(index));
        Ok(part.map_or(Value::Null, |part| Value::Text(Cow::Owned(part.to_owned()))))
    }
}

fn truth_of(value: &Value<'_>) -> Result<bool, Failed> {
    value.truth().ok_or(Failed::Type("a time or a fraction is neither true nor false"))
}

fn time<'a>(ms: Option<i64>, moves: bool) -> Result<Value<'a>, Failed> {
    let ms =
        ms.ok_or(Failed::Type("a date is written YYYY, YYYY-MM or YYYY-MM-DD, a time follows with T"))?;
    Ok(Value::Time(Moment { ms, moves }))
}
