// Numbers as u32 whose order is theirs. Zeros of both signs are one number; NaN comes after everything. No number is
// coded as 0 or as 0xffffffff, so both can stand for none.

fn order_of_f32(bits: vec4<u32>) -> vec4<u32> {
    let magnitude = bits & vec4<u32>(0x7fffffffu);
    let signed = select(bits, vec4<u32>(0u), magnitude == vec4<u32>(0u));
    let is_negative = signed >= vec4<u32>(0x80000000u);
    let ordered = signed ^ select(vec4<u32>(0x80000000u), vec4<u32>(0xffffffffu), is_negative);
    return select(ordered, vec4<u32>(0xffc00000u), magnitude > vec4<u32>(0x7f800000u));
}

// The bits of the number; any NaN comes back as a quiet one.
fn f32_of_order(ordered: u32) -> u32 {
    return ordered ^ select(0xffffffffu, 0x80000000u, ordered >= 0x80000000u);
}
