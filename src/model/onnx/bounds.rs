//! Bounds what decoding a model may cost: an empty message is two bytes of a file and hundreds in memory.
//!
//! Walks the wire format (<https://protobuf.dev/programming-guides/encoding/>) of the messages that [`super::proto`] knows,
//! counts their fields and allocates nothing. What is malformed is left for the decoder to refuse.

/// Most fields of a model; a graph of a hundred thousand nodes has half as many.
pub const MOST_FIELDS: u64 = 2_000_000;
/// So many bytes of packed integers, which grow to eight times as many, count as a field.
const PACKED: u64 = 32;
/// The decoder's own limit.
const DEEPEST: usize = 100;

/// A message, by what its fields hold.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Function,
    Graph,
    Node,
    Attribute,
    Tensor,
    Port,
    PortType,
    TensorType,
    Shape,
    Leaf,
}

impl Message {
    /// The message in field `number`, if it is one.
    fn field(self, number: u64) -> Option<Message> {
        use Message::*;
        Some(match (self, number) {
            (Model, 7) | (Attribute, 6) => Graph,
            (Model, 25) => Function,
            (Graph, 1) | (Function, 7) => Node,
            (Node, 5) => Attribute,
            (Graph, 5) | (Attribute, 5) => Tensor,
            (Graph, 11 | 12) => Port,
            (Port, 2) => PortType,
            (PortType, 1) => TensorType,
            (TensorType, 2) => Shape,
            (Model, 8 | 14) | (Function, 9) | (Tensor, 13) | (Shape, 1) => Leaf,
            _ => return None,
        })
    }
}

/// Whether the model has at most [`MOST_FIELDS`] fields, as far as it can be followed.
pub fn holds(model: &[u8]) -> bool {
    let mut left = MOST_FIELDS;
    walk(model, Message::Model, 0, &mut left);
    left > 0
}

/// Takes the fields of a message from `left`. `None` where it ends or cannot be followed.
fn walk(mut bytes: &[u8], message: Message, depth: usize, left: &mut u64) -> Option<()> {
    while !bytes.is_empty() && *left > 0 && depth <= DEEPEST {
        *left -= 1;
        let key = varint(&mut bytes)?;
        let length = match key & 7 {
            0 => {
                varint(&mut bytes)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (value, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        match message.field(key >> 3) {
            Some(inner) if key & 7 == 2 => {
                walk(value, inner, depth + 1, left);
            }
            None if matches!((message, key), (Message::Tensor, 0x2a | 0x3a)) => {
                *left = left.saturating_sub(length as u64 / PACKED);
            }
            _ => {}
        }
    }
    Some(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length_delimited(field: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![field << 3 | 2];
        prost::encoding::encode_varint(content.len() as u64, &mut out);
        [out, content.to_vec()].concat()
    }

    #[test]
    fn millions_of_empty_messages_are_too_many_wherever_they_are() {
        let empty = |field: u8| [field << 3 | 2, 0].repeat(MOST_FIELDS as usize);
        let in_graph = |content: &[u8]| length_delimited(7, content);
        let in_attribute = |content: &[u8]| in_graph(&length_delimited(1, &length_delimited(5, content)));
        assert!(!holds(&empty(8)));
        assert!(!holds(&in_graph(&empty(1))));
        assert!(!holds(&in_attribute(&length_delimited(6, &empty(5)))));
        assert!(!holds(&in_graph(&length_delimited(
            5,
            &length_delimited(7, &vec![1; PACKED as usize * MOST_FIELDS as usize])
        ))));
        // weights as they are, however large, are one field
        assert!(holds(&in_graph(&length_delimited(5, &length_delimited(9, &vec![0; 100 << 20])))));
        assert!(holds(&[0xff; 64]) && holds(&[]));
    }
}
