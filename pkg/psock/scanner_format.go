package psock

// The type byte of an item's flags, from R's SEXPTYPE (Rinternals.h) and the
// pseudo types of serialize.c.
const (
	typeSymbol     = 1
	typePairlist   = 2
	typeClosure    = 3
	typeEnv        = 4
	typePromise    = 5
	typeCall       = 6
	typeSpecial    = 7
	typeBuiltin    = 8
	typeChar       = 9
	typeLogical    = 10
	typeInteger    = 13
	typeDouble     = 14
	typeComplex    = 15
	typeString     = 16
	typeDots       = 17
	typeList       = 19
	typeExpression = 20
	typeByteCode   = 21
	typeExtPtr     = 22
	typeWeakRef    = 23
	typeRaw        = 24
	typeS4         = 25

	typeAltrep        = 238
	typeAttrPairlist  = 239
	typeAttrCall      = 240
	typeBaseEnv       = 241
	typeEmptyEnv      = 242
	typeRepeat        = 243 // byte code: a call that was defined before
	typeRepeatDef     = 244 // byte code: a call that will be repeated
	typePersistent    = 247
	typePackage       = 248
	typeNamespace     = 249
	typeBaseNamespace = 250
	typeMissingArg    = 251
	typeUnbound       = 252
	typeGlobalEnv     = 253
	typeNull          = 254
	typeReference     = 255
)

// The bits of an item's flags above its type. Whether the item is of a class
// (bit 8) and its general purpose bits (from bit 12) make no difference to its
// size.
const (
	flagObject = 1 << 8
	flagAttr   = 1 << 9
	flagTag    = 1 << 10
)

// shape is how an item goes on after its flags.
type shape uint8

const (
	shapeUnknown  shape = iota
	shapeEmpty          // nothing more
	shapeFixed          // a number of items, whatever is flagged
	shapeItems          // a number of items, attributes when flagged
	shapeCell           // attributes and tag when flagged, then two items
	shapeVector         // length, data, attributes when flagged
	shapeList           // length, items, attributes when flagged
	shapeChar           // length or -1, data, attributes when flagged
	shapeName           // length, data, attributes when flagged
	shapeEnv            // a word, four items
	shapeStrings        // a zero, number of items, items
	shapeRef            // the index when it is not in the flags
	shapeByteCode       // see scanner_bytecode.go
)

// layout is a shape and its number: the bytes of an element of a vector, or the
// count of items.
type layout struct {
	shape shape
	n     uint8
}

var layouts = [256]layout{
	typeNull:          {shape: shapeEmpty},
	typeEmptyEnv:      {shape: shapeEmpty},
	typeBaseEnv:       {shape: shapeEmpty},
	typeGlobalEnv:     {shape: shapeEmpty},
	typeUnbound:       {shape: shapeEmpty},
	typeMissingArg:    {shape: shapeEmpty},
	typeBaseNamespace: {shape: shapeEmpty},
	typeReference:     {shape: shapeRef},
	typePersistent:    {shape: shapeStrings},
	typePackage:       {shape: shapeStrings},
	typeNamespace:     {shape: shapeStrings},
	typeSymbol:        {shape: shapeFixed, n: 1}, // its name
	typeAltrep:        {shape: shapeFixed, n: 3}, // class, state, attributes
	typeEnv:           {shape: shapeEnv},         // locked; enclosure, frame, hash table, attributes
	typePairlist:      {shape: shapeCell},
	typeCall:          {shape: shapeCell},
	typeClosure:       {shape: shapeCell}, // the tag is the environment
	typePromise:       {shape: shapeCell},
	typeDots:          {shape: shapeCell},
	typeExtPtr:        {shape: shapeItems, n: 2}, // protected, tag
	typeWeakRef:       {shape: shapeItems},
	typeS4:            {shape: shapeItems},
	typeSpecial:       {shape: shapeName},
	typeBuiltin:       {shape: shapeName},
	typeChar:          {shape: shapeChar},
	typeLogical:       {shape: shapeVector, n: 4},
	typeInteger:       {shape: shapeVector, n: 4},
	typeDouble:        {shape: shapeVector, n: 8},
	typeComplex:       {shape: shapeVector, n: 16},
	typeRaw:           {shape: shapeVector, n: 1},
	typeString:        {shape: shapeList},
	typeList:          {shape: shapeList},
	typeExpression:    {shape: shapeList},
	typeByteCode:      {shape: shapeByteCode},
}

// attrs is 1 when the flags of an item say that attributes come with it, in one
// more item.
func attrs(flags uint32) int64 {
	return int64(flags / flagAttr & 1)
}
