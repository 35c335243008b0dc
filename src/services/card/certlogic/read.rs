//! Reads expressions, and says what is wrong with those that are none.

use serde_json::{Map, Value as Json};

use super::{DEPTH_MAX, Expression, Malformed, NODES_MAX, Node, Order, Path, Unit};

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// It has another form than the specification gives it, or is over a bound.
    pub fn read(json: &Json) -> Result<Self, Malformed> {
        let mut reader = Reader { nodes: 0, at: Vec::new(), in_lambda: false };
        reader.node(json).map(Self)
    }
}

struct Reader {
    nodes: usize,
    at: Vec<String>,
    in_lambda: bool,
}

impl Reader {
    fn malformed<T>(&self, why: &'static str) -> Result<T, Malformed> {
        let mut at = String::new();
        for part in &self.at {
            at.push('/');
            at.push_str(&part.replace('~', "~0").replace('/', "~1"));
        }
        Err(Malformed { at, why })
    }

    fn node(&mut self, json: &Json) -> Result<Node, Malformed> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return self.malformed("an expression may have 2,000 nodes");
        }
        // An operation takes two parts of the pointer: its name, and the operand's number.
        if self.at.len() > 2 * DEPTH_MAX {
            return self.malformed("an expression may nest 40 deep");
        }
        match json {
            Json::Bool(value) => Ok(Node::Bool(*value)),
            Json::String(text) => Ok(Node::Text(text.clone())),
            Json::Number(number) => match number.as_i64() {
                Some(value) => Ok(Node::Integer(value)),
                None => self.malformed("a number must be an integer"),
            },
            Json::Array(items) => Ok(Node::List(self.nodes(items)?)),
            Json::Object(members) => self.operation(members),
            Json::Null => self.malformed("null is no expression"),
        }
    }

    fn nodes(&mut self, items: &[Json]) -> Result<Vec<Node>, Malformed> {
        items.iter().enumerate().map(|(index, item)| self.below(index.to_string(), item)).collect()
    }

    fn below(&mut self, part: String, json: &Json) -> Result<Node, Malformed> {
        self.at.push(part);
        let node = self.node(json)?;
        self.at.pop();
        Ok(node)
    }

    fn operation(&mut self, members: &Map<String, Json>) -> Result<Node, Malformed> {
        let mut members = members.iter();
        let (Some((name, operands)), None) = (members.next(), members.next()) else {
            return self.malformed("an operation is an object with one member");
        };
        self.at.push(name.clone());
        let node = match (name.as_str(), operands) {
            ("var", Json::String(path)) => Node::Var(self.path(path)?),
            ("var", _) => return self.malformed("the operand of var is a text"),
            (name, Json::Array(operands)) => self.apply(name, operands)?,
            _ => return self.malformed("the operands of an operation are an array"),
        };
        self.at.pop();
        Ok(node)
    }

    fn path(&self, path: &str) -> Result<Path, Malformed> {
        if path.is_empty() && self.in_lambda {
            return self.malformed("in a reduction, var names current or accumulator");
        }
        if !path.is_empty() && path.split('.').any(str::is_empty) {
            return self.malformed("a path is its parts with dots between them");
        }
        Ok(Path { text: path.to_owned(), in_lambda: self.in_lambda })
    }

    fn apply(&mut self, name: &str, operands: &[Json]) -> Result<Node, Malformed> {
        let order = match name {
            "<" | "before" => Some(Order::Less),
            "<=" | "not-after" => Some(Order::LessOrEqual),
            ">" | "after" => Some(Order::Greater),
            ">=" | "not-before" => Some(Order::GreaterOrEqual),
            _ => None,
        };
        if let Some(order) = order {
            if !(2..=3).contains(&operands.len()) {
                return self.malformed("a comparison has two operands, or three");
            }
            let nodes = self.nodes(operands)?;
            let is_of_integers = name.starts_with(['<', '>']);
            return Ok(if is_of_integers {
                Node::Compare(order, nodes)
            } else {
                Node::CompareTimes(order, nodes)
            });
        }
        match name {
            "if" => Ok(Node::If(self.just(operands, "if has three operands")?)),
            "and" if operands.len() >= 2 => Ok(Node::And(self.nodes(operands)?)),
            "and" => self.malformed("and has two operands at least"),
            "!" => {
                let [operand] = *self.just(operands, "! has one operand")?;
                Ok(Node::Not(Box::new(operand)))
            }
            "===" => Ok(Node::Equal(self.just(operands, "=== has two operands")?)),
            "in" => Ok(Node::In(self.just(operands, "in has two operands")?)),
            "+" => Ok(Node::Add(self.just(operands, "+ has two operands")?)),
            "plusTime" => self.plus_time(operands),
            "dccDateOfBirth" => {
                let [operand] = *self.just(operands, "dccDateOfBirth has one operand")?;
                Ok(Node::BirthDate(Box::new(operand)))
            }
            "reduce" => self.reduce(operands),
            "extractFromUVCI" => self.part(operands),
            _ => self.malformed("there is no such operation"),
        }
    }

    /// Exactly so many operands.
    fn just<const N: usize>(
        &mut self,
        operands: &[Json],
        why: &'static str,
    ) -> Result<Box<[Node; N]>, Malformed> {
        if operands.len() != N {
            return self.malformed(why);
        }
        let nodes = self.nodes(operands)?.into_boxed_slice();
        nodes.try_into().or_else(|_| self.malformed(why))
    }

    fn plus_time(&mut self, operands: &[Json]) -> Result<Node, Malformed> {
        let [of, amount, unit] = operands else { return self.malformed("plusTime has three operands") };
        let of = Box::new(self.below("0".to_owned(), of)?);
        let Some(amount) = amount.as_i64() else {
            self.at.push("1".to_owned());
            return self.malformed("the amount is an integer");
        };
        let unit = match unit.as_str() {
            Some("year") => Unit::Year,
            Some("month") => Unit::Month,
            Some("day") => Unit::Day,
            Some("hour") => Unit::Hour,
            _ => {
                self.at.push("2".to_owned());
                return self.malformed("the unit is year, month, day or hour");
            }
        };
        Ok(Node::PlusTime { of, amount, unit })
    }

    fn reduce(&mut self, operands: &[Json]) -> Result<Node, Malformed> {
        let [over, lambda, initial] = operands else { return self.malformed("reduce has three operands") };
        let over = self.below("0".to_owned(), over)?;
        let outside = std::mem::replace(&mut self.in_lambda, true);
        let lambda = self.below("1".to_owned(), lambda)?;
        self.in_lambda = outside;
        let initial = self.below("2".to_owned(), initial)?;
        Ok(Node::Reduce(Box::new([over, lambda, initial])))
    }

    fn part(&mut self, operands: &[Json]) -> Result<Node, Malformed> {
        let [of, index] = operands else { return self.malformed("extractFromUVCI has two operands") };
        let of = Box::new(self.below("0".to_owned(), of)?);
        let Some(index) = index.as_i64() else {
            self.at.push("1".to_owned());
            return self.malformed("the index is an integer");
        };
        Ok(Node::Part { of, index })
    }
}
